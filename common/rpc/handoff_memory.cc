#include "common/rpc/handoff_memory.h"

#include <iterator>
#include <utility>

#include "common/base/status_macros.h"
#include "common/observe/log.h"

namespace baton {
namespace {

// Ranges begin at cache lines.
int64_t RoundUp(int64_t bytes) {
  constexpr int64_t kAlignment = 64;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

HandoffMemory::HandoffMemory(int64_t bytes) : bytes_(RoundUp(bytes)) {}

absl::optional<SharedMemoryName> HandoffMemory::Offer() {
  absl::MutexLock lock(&mutex_);
  if (given_up_) return absl::nullopt;
  if (!memory_.has_value()) {
    absl::StatusOr<SharedMemory> memory = SharedMemory::Create(kSharedMemoryDataOffset + bytes_);
    if (!memory.ok()) {
      Log(Severity::kWarning, "handoff_shared_memory").With("error", memory.status()).With("instead", "grpc");
      given_up_ = true;
      return absl::nullopt;
    }
    memory_ = *std::move(memory);
  }
  return memory_->name();
}

bool HandoffMemory::Accepted() {
  absl::MutexLock lock(&mutex_);
  if (given_up_ || !memory_.has_value()) return false;
  if (memory_->data() != nullptr) return true;
  const absl::Status status = memory_->Allocate();
  if (!status.ok()) {
    Log(Severity::kWarning, "handoff_shared_memory").With("error", status).With("instead", "grpc");
    GiveUp();
    return false;
  }
  free_.emplace(kSharedMemoryDataOffset, bytes_);
  return true;
}

void HandoffMemory::Refused() {
  absl::MutexLock lock(&mutex_);
  // Some have it already; a later handoff that cannot open it any more says nothing about them.
  if (memory_.has_value() && memory_->data() == nullptr) GiveUp();
}

void HandoffMemory::GiveUp() {
  given_up_ = true;
  memory_.reset();
}

char* HandoffMemory::Allocate(int64_t bytes, int64_t* offset) {
  bytes = RoundUp(bytes);
  absl::MutexLock lock(&mutex_);
  for (auto range = free_.begin(); range != free_.end(); ++range) {
    if (range->second < bytes) continue;
    *offset = range->first;
    const int64_t left = range->second - bytes;
    free_.erase(range);
    if (left > 0) free_.emplace(*offset + bytes, left);
    used_ += bytes;
    return memory_->data() + *offset;
  }
  return nullptr;
}

void HandoffMemory::Free(int64_t offset, int64_t bytes) {
  bytes = RoundUp(bytes);
  absl::MutexLock lock(&mutex_);
  used_ -= bytes;
  BATON_CHECK(used_ >= 0);
  auto [range, fresh] = free_.emplace(offset, bytes);
  BATON_CHECK(fresh);
  const auto next = std::next(range);
  if (next != free_.end() && range->first + range->second == next->first) {
    range->second += next->second;
    free_.erase(next);
  }
  if (range == free_.begin()) return;
  const auto before = std::prev(range);
  if (before->first + before->second == range->first) {
    before->second += range->second;
    free_.erase(range);
  }
}

int64_t HandoffMemory::used() const {
  absl::MutexLock lock(&mutex_);
  return used_;
}

}  // namespace baton
