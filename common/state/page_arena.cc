#include "common/state/page_arena.h"

#include <algorithm>

#include "common/base/status_macros.h"
#include "common/state/memory_budget.h"

// gcc says it with a macro, clang with a feature.
#if defined(__SANITIZE_ADDRESS__)
#define BATON_POISON_IDLE_PAGES 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BATON_POISON_IDLE_PAGES 1
#endif
#endif

#if defined(BATON_POISON_IDLE_PAGES)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(data, bytes) (static_cast<void>(data), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(data, bytes) (static_cast<void>(data), static_cast<void>(bytes))
#endif

namespace baton {
namespace {

// Address space only: memory is taken as pages are touched. Whole huge pages, and few mappings.
constexpr int64_t kSlabBytes = int64_t{64} << 20;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;

}  // namespace

void PageRef::Release() {
  if (page_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    page_->arena->Recycle(page_, /*free_charge=*/true);
  }
}

PageArena::~PageArena() {
  for (auto& [bytes, size_class] : classes_) {
    for (const PageBlock& slab : size_class.slabs) ASAN_UNPOISON_MEMORY_REGION(slab.data(), slab.bytes());
  }
}

void PageArena::Abandon() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    budget_ = nullptr;
    if (used_pages_ > 0) return;
  }
  delete this;
}

PageRef PageArena::Allocate(int64_t bytes) {
  BATON_CHECK(bytes > 0);
  std::lock_guard<std::mutex> lock(mutex_);
  SizeClass& size_class = classes_[bytes];
  if (size_class.bytes == 0) {
    size_class.bytes = bytes;
    size_class.stride = (bytes + kPageAlignment - 1) / kPageAlignment * kPageAlignment;
  }
  Page* page = nullptr;
  if (!size_class.idle.empty()) {
    page = size_class.idle.back();
    size_class.idle.pop_back();
    idle_bytes_ -= bytes;
  } else {
    MakeRoom(bytes);
    if (!size_class.cold.empty()) {
      page = size_class.cold.back();
      size_class.cold.pop_back();
    } else {
      page = AddPage(size_class);
      if (page == nullptr) return PageRef();
    }
  }
  ++used_pages_;
  used_bytes_ += bytes;
  ASAN_UNPOISON_MEMORY_REGION(page->data, bytes);
  page->references.store(1, std::memory_order_relaxed);
  return PageRef(page);
}

void PageArena::Recycle(Page* page, bool free_charge) {
  bool last_of_all;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ASAN_POISON_MEMORY_REGION(page->data, page->bytes);
    classes_[page->bytes].idle.push_back(page);
    idle_bytes_ += page->bytes;
    used_bytes_ -= page->bytes;
    --used_pages_;
    if (free_charge && budget_ != nullptr) budget_->Free(page->bytes);
    last_of_all = budget_ == nullptr && used_pages_ == 0;
  }
  if (last_of_all) delete this;
}

int64_t PageArena::idle_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return idle_bytes_;
}

Page* PageArena::AddPage(SizeClass& size_class) {
  if (size_class.fresh_end - size_class.fresh < size_class.stride && !AddSlab(size_class)) return nullptr;
  Page& page = size_class.pages.emplace_back();
  page.data = size_class.fresh;
  page.bytes = size_class.bytes;
  page.arena = this;
  size_class.fresh += size_class.stride;
  return &page;
}

bool PageArena::AddSlab(SizeClass& size_class) {
  const int64_t bytes = std::max(kSlabBytes, size_class.stride);
  // Room to begin at a huge page.
  absl::StatusOr<PageBlock> slab = PageBlock::Allocate(static_cast<size_t>(bytes + kHugePageBytes));
  if (!slab.ok()) return false;
  const auto address = reinterpret_cast<uintptr_t>(slab->data());
  const uintptr_t padding = (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  size_class.fresh = slab->data() + padding;
  size_class.fresh_end = size_class.fresh + bytes;
  size_class.slabs.push_back(*std::move(slab));
  return true;
}

void PageArena::MakeRoom(int64_t bytes) {
  for (auto& [other_bytes, other] : classes_) {
    size_t dropped = 0;
    // Oldest first: the others are warmer.
    while (dropped < other.idle.size() && used_bytes_ + idle_bytes_ > limit_bytes_ - bytes) {
      Page* page = other.idle[dropped++];
      // Inner pages of the system only: neighbours stay as they are.
      DropPages(page->data, static_cast<size_t>(page->bytes));
      other.cold.push_back(page);
      idle_bytes_ -= other_bytes;
    }
    other.idle.erase(other.idle.begin(), other.idle.begin() + static_cast<int64_t>(dropped));
  }
}

}  // namespace baton
