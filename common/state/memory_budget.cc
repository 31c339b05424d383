#include "common/state/memory_budget.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/state/page_arena.h"

namespace baton {

MemoryReservation::MemoryReservation(MemoryReservation&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MemoryReservation& MemoryReservation::operator=(MemoryReservation&& other) noexcept {
  if (this == &other) return *this;
  Release();
  budget_ = std::exchange(other.budget_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

MemoryReservation::~MemoryReservation() { Release(); }

void MemoryReservation::Release() {
  if (budget_ != nullptr) budget_->Free(bytes_);
  budget_ = nullptr;
  bytes_ = 0;
}

absl::Status MemoryReservation::Grow(int64_t bytes) {
  BATON_CHECK(budget_ != nullptr);
  BATON_RETURN_IF_ERROR(budget_->Take(bytes));
  bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status MemoryReservation::Grow(int64_t bytes, MemoryReservation& first) {
  BATON_CHECK(first.budget_ == nullptr || first.budget_ == budget_);
  const int64_t moved = std::min(bytes, first.bytes_);
  BATON_RETURN_IF_ERROR(Grow(bytes - moved));
  first.bytes_ -= moved;
  bytes_ += moved;
  return absl::OkStatus();
}

void MemoryReservation::GrowEvenIfFull(int64_t bytes) {
  BATON_CHECK(budget_ != nullptr && bytes >= 0);
  budget_->TakeEvenIfFull(bytes);
  bytes_ += bytes;
}

void MemoryReservation::Shrink(int64_t bytes) {
  BATON_CHECK(bytes >= 0 && bytes <= bytes_);
  if (bytes == 0) return;
  budget_->Free(bytes);
  bytes_ -= bytes;
}

PageRef MemoryReservation::TakePage(int64_t bytes) {
  BATON_CHECK(bytes > 0 && bytes <= bytes_);
  PageRef page = budget_->arena_->Allocate(bytes);
  if (page) bytes_ -= bytes;
  return page;
}

bool MemoryReservation::TakeBack(PageRef page) {
  BATON_CHECK(page && budget_ != nullptr && page.page_->arena == budget_->arena_);
  Page* released = std::exchange(page.page_, nullptr);
  if (released->references.fetch_sub(1, std::memory_order_acq_rel) > 1) return false;
  bytes_ += released->bytes;
  budget_->arena_->Recycle(released, /*free_charge=*/false);
  return true;
}

MemoryBudget::MemoryBudget(int64_t total_bytes) : total_(total_bytes), arena_(new PageArena(this, total_bytes)) {}

MemoryBudget::~MemoryBudget() { arena_->Abandon(); }

absl::StatusOr<MemoryReservation> MemoryBudget::Reserve(int64_t bytes) {
  BATON_RETURN_IF_ERROR(Take(bytes));
  return MemoryReservation(this, bytes);
}

absl::Status MemoryBudget::Take(int64_t bytes) {
  if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("cannot reserve ", bytes, " bytes"));
  int64_t free_bytes;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    free_bytes = total_ - used_;
    if (bytes <= free_bytes) {
      used_ += bytes;
      return absl::OkStatus();
    }
  }
  return absl::ResourceExhaustedError(absl::StrCat("state memory: ", FormatBytes(bytes), " needed, ",
                                                   FormatBytes(std::max<int64_t>(free_bytes, 0)), " of ",
                                                   FormatBytes(total_), " free"));
}

void MemoryBudget::TakeEvenIfFull(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  used_ += bytes;
}

int64_t MemoryBudget::used() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return used_;
}

int64_t MemoryBudget::idle_bytes() const { return arena_->idle_bytes(); }

void MemoryBudget::Free(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  BATON_CHECK(bytes <= used_);
  used_ -= bytes;
}

}  // namespace baton
