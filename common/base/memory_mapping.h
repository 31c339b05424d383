// What mmap gave, unmapped on destruction.
//
//   void* data = mmap(nullptr, bytes, ...);
//   if (data == MAP_FAILED) return ...;
//   MemoryMapping mapping(data, bytes);
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <utility>

namespace baton {

class MemoryMapping {
 public:
  MemoryMapping() = default;
  MemoryMapping(void* data, size_t size) : data_(data), size_(size) {}
  MemoryMapping(MemoryMapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MemoryMapping& operator=(MemoryMapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MemoryMapping() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  // Null where there is none.
  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace baton
