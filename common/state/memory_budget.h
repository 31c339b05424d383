// Bytes promised to sequences, counted before they are used. One budget per worker; thread-safe.
//
//   absl::StatusOr<MemoryReservation> r = budget.Reserve(bytes);   // RESOURCE_EXHAUSTED when it does not fit
//   ... r is released when destroyed.
#pragma once

#include <cstdint>
#include <mutex>

#include "absl/status/statusor.h"

namespace baton {

class MemoryBudget;

// Movable, not copyable: bytes are owned once.
class MemoryReservation {
 public:
  MemoryReservation() = default;
  MemoryReservation(MemoryReservation&& other) noexcept;
  MemoryReservation& operator=(MemoryReservation&& other) noexcept;
  ~MemoryReservation();
  int64_t bytes() const { return bytes_; }

 private:
  friend class MemoryBudget;
  MemoryReservation(MemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
  void Release();
  MemoryBudget* budget_ = nullptr;
  int64_t bytes_ = 0;
};

class MemoryBudget {
 public:
  explicit MemoryBudget(int64_t total_bytes) : total_(total_bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;

  // RESOURCE_EXHAUSTED (naming both figures) when fewer than `bytes` are free.
  absl::StatusOr<MemoryReservation> Reserve(int64_t bytes);
  int64_t total() const { return total_; }
  int64_t used() const;

 private:
  friend class MemoryReservation;
  void Free(int64_t bytes);
  const int64_t total_;
  mutable std::mutex mutex_;
  int64_t used_ = 0;
};

}  // namespace baton
