#include "common/base/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14; older headers lack it, older kernels refuse it
#endif

namespace baton {
namespace {

uintptr_t PageBytes() {
  static const uintptr_t bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

struct PageRange {
  void* begin = nullptr;
  size_t bytes = 0;
};

size_t BytesIntoPage(const void* data) { return reinterpret_cast<uintptr_t>(data) % PageBytes(); }

PageRange PagesWithin(const void* data, size_t bytes) {
  const size_t skipped = (PageBytes() - BytesIntoPage(data)) % PageBytes();
  if (skipped > bytes) return {};
  return {static_cast<char*>(const_cast<void*>(data)) + skipped, (bytes - skipped) / PageBytes() * PageBytes()};
}

PageRange PagesAround(const void* data, size_t bytes) {
  const size_t before = BytesIntoPage(data);
  return {static_cast<char*>(const_cast<void*>(data)) - before, before + bytes};
}

}  // namespace

absl::StatusOr<PageBlock> PageBlock::Allocate(size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", FormatBytes(static_cast<int64_t>(bytes))));
  }
  PreferHugePages(data, bytes);
  return PageBlock(MemoryMapping(data, bytes));
}

// Advice: a kernel that does not take it changes nothing but speed.

void DropPages(const void* data, size_t bytes) {
  const PageRange pages = PagesWithin(data, bytes);
  if (pages.bytes > 0) madvise(pages.begin, pages.bytes, MADV_DONTNEED);
}

void PreferHugePages(const void* data, size_t bytes) {
  const PageRange pages = PagesAround(data, bytes);
  madvise(pages.begin, pages.bytes, MADV_HUGEPAGE);
}

void PopulatePages(const void* data, size_t bytes) {
  if (bytes == 0) return;
  const PageRange pages = PagesAround(data, bytes);
  if (madvise(pages.begin, pages.bytes, MADV_POPULATE_READ) == 0) return;
  const volatile auto* byte = static_cast<const unsigned char*>(data);
  for (size_t at = 0; at < bytes; at += PageBytes()) static_cast<void>(byte[at]);
}

}  // namespace baton
