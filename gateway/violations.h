// The mistakes found in one request, collected so that a caller hears of all of them at once.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/rpc/status_mapping.h"

namespace baton {

class Violations {
 public:
  void Add(std::string field, std::string description) {
    entries_.emplace_back(std::move(field), std::move(description));
  }
  // A mistake of a kind that clients handle by itself (PROMPT_TOO_LONG); carried when it is the only one.
  void AddWithReason(std::string field, std::string description, std::string reason) {
    Add(std::move(field), std::move(description));
    reason_ = std::move(reason);
  }
  // Something that no change of the request's values mends; it goes before all others.
  void Refuse(absl::Status status) {
    if (refusal_.ok()) refusal_ = std::move(status);
  }
  // How many there are: shows whether a step found some.
  size_t count() const { return entries_.size() + (refusal_.ok() ? 0 : 1); }
  bool empty() const { return refusal_.ok() && entries_.empty(); }
  // OK when there are none.
  absl::Status ToStatus() const {
    if (!refusal_.ok()) return refusal_;
    if (entries_.empty()) return absl::OkStatus();
    absl::Status status = BadRequestError(entries_);
    return reason_.empty() || entries_.size() > 1 ? status : WithReason(std::move(status), reason_);
  }

 private:
  std::vector<std::pair<std::string, std::string>> entries_;
  std::string reason_;
  absl::Status refusal_;
};

}  // namespace baton
