// Memory by the page: large blocks of our own, and what the kernel should do with the pages of a mapped file.
//
//   absl::StatusOr<PageBlock> block = PageBlock::Allocate(bytes);    // zeros, huge pages where there are some
//   Fill(block->data());
//
//   DropPages(tensor.data, tensor.bytes);                            // read once, not needed again
#pragma once

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/memory_mapping.h"

namespace baton {

// Zeroed memory straight from the kernel, given back to it on destruction.
class PageBlock {
 public:
  PageBlock() = default;
  // RESOURCE_EXHAUSTED when the system refuses.
  static absl::StatusOr<PageBlock> Allocate(size_t bytes);

  std::byte* data() const { return static_cast<std::byte*>(mapping_.data()); }
  size_t bytes() const { return mapping_.size(); }

 private:
  explicit PageBlock(MemoryMapping mapping) : mapping_(std::move(mapping)) {}
  MemoryMapping mapping_;
};

// Of a mapped file only (memory of our own would lose its contents): the pages that lie wholly inside stop counting as
// this process's; reading them again reads the file again.
void DropPages(const void* data, size_t bytes);

// Asks for huge pages for a mapping that will be read from end to end again and again.
void PreferHugePages(const void* data, size_t bytes);

// Reads what is not in memory yet and enters the pages into this process's page table. Several threads may populate
// parts of one mapping.
void PopulatePages(const void* data, size_t bytes);

}  // namespace baton
