// Bytes promised to sequences, counted before they are used, and the pages they become. One budget per worker;
// thread-safe.
//
// used() is exact: what reservations hold, plus every page once, from its allocation to its last release. A reservation
// turns into pages and back without used() changing, so nothing that was reserved can fail for lack of memory.
//
//   absl::StatusOr<MemoryReservation> r = budget.Reserve(bytes);   // RESOURCE_EXHAUSTED when it does not fit
//   PageRef page = r->TakePage(page_bytes);                        // r is smaller by page_bytes
//   r->TakeBack(std::move(page));                                  // and has them again, if nobody else holds the page
//   ... r is released when destroyed; a page when its last reference is gone.
#pragma once

#include <cstdint>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/state/kv_page.h"

namespace baton {

class MemoryBudget;

// Movable, not copyable: bytes are owned once. The budget must outlive it (but not its pages).
class MemoryReservation {
 public:
  MemoryReservation() = default;
  MemoryReservation(MemoryReservation&& other) noexcept;
  MemoryReservation& operator=(MemoryReservation&& other) noexcept;
  ~MemoryReservation();
  int64_t bytes() const { return bytes_; }

  // RESOURCE_EXHAUSTED as MemoryBudget::Reserve; then nothing has changed.
  absl::Status Grow(int64_t bytes);
  // The same, out of `first` as far as that goes.
  absl::Status Grow(int64_t bytes, MemoryReservation& first);
  // Takes what is owed, also when nothing is free: used() may then exceed total() until others release.
  void GrowEvenIfFull(int64_t bytes);
  // Gives `bytes` of it back to the budget.
  void Shrink(int64_t bytes);
  // Makes `bytes` of it a page. Empty, and nothing has changed, when the system refuses memory.
  PageRef TakePage(int64_t bytes);
  // Releases a reference. True: it was the last one, and the page's bytes are this reservation's again. The page must
  // be of the same budget.
  bool TakeBack(PageRef page);

 private:
  friend class MemoryBudget;
  MemoryReservation(MemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
  void Release();
  MemoryBudget* budget_ = nullptr;
  int64_t bytes_ = 0;
};

class MemoryBudget {
 public:
  explicit MemoryBudget(int64_t total_bytes);
  ~MemoryBudget();
  MemoryBudget(const MemoryBudget&) = delete;

  // RESOURCE_EXHAUSTED (naming both figures) when fewer than `bytes` are free.
  absl::StatusOr<MemoryReservation> Reserve(int64_t bytes);
  int64_t total() const { return total_; }
  int64_t used() const;
  // Memory of released pages, kept to be used again. Not part of used().
  int64_t idle_bytes() const;

 private:
  friend class MemoryReservation;
  friend class PageArena;
  absl::Status Take(int64_t bytes);
  void TakeEvenIfFull(int64_t bytes);
  void Free(int64_t bytes);
  const int64_t total_;
  PageArena* const arena_;  // lives until its last page is released
  mutable std::mutex mutex_;
  int64_t used_ = 0;
};

}  // namespace baton
