#include "common/state/memory_budget.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"

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

absl::StatusOr<MemoryReservation> MemoryBudget::Reserve(int64_t bytes) {
  if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("cannot reserve ", bytes, " bytes"));
  int64_t free_bytes;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    free_bytes = total_ - used_;
    if (bytes <= free_bytes) {
      used_ += bytes;
      return MemoryReservation(this, bytes);
    }
  }
  return absl::ResourceExhaustedError(absl::StrCat("state memory: ", FormatBytes(bytes), " needed, ",
                                                   FormatBytes(free_bytes), " of ", FormatBytes(total_), " free"));
}

int64_t MemoryBudget::used() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return used_;
}

void MemoryBudget::Free(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  BATON_CHECK(bytes <= used_);
  used_ -= bytes;
}

}  // namespace baton
