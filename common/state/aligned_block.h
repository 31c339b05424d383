// Raw memory of a sequence state: 64-byte aligned (a cache line, the widest vector), uninitialised, freed on
// destruction. It does not know its size; its owner does.
//
// GetOrAllocate may be called from several threads at once: all get the same memory. So kernels may write the rows of
// one new KV page in parallel.
#pragma once

#include <atomic>
#include <cstddef>
#include <new>
#include <utility>

namespace baton {

class AlignedBlock {
 public:
  static constexpr size_t kAlignment = 64;

  AlignedBlock() = default;
  AlignedBlock(AlignedBlock&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  AlignedBlock& operator=(AlignedBlock&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~AlignedBlock() { Free(data_); }

  // nullptr until allocated.
  std::byte* data() const { return std::atomic_ref<std::byte*>(data_).load(std::memory_order_acquire); }

  // nullptr when the system has no memory. `bytes` must be the same at every call.
  std::byte* GetOrAllocate(size_t bytes) {
    if (std::byte* present = data(); present != nullptr) return present;
    auto* fresh = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment}, std::nothrow));
    if (fresh == nullptr) return nullptr;
    std::byte* expected = nullptr;
    if (std::atomic_ref<std::byte*>(data_).compare_exchange_strong(expected, fresh, std::memory_order_acq_rel)) {
      return fresh;
    }
    Free(fresh);
    return expected;
  }

 private:
  static void Free(std::byte* data) { ::operator delete (data, std::align_val_t{kAlignment}); }

  mutable std::byte* data_ = nullptr;
};

}  // namespace baton
