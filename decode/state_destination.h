// Where a state goes that somebody pushes here (StateReceiver): to the reservation of a request, or among the copies
// kept for other workers. Used by one thread at a time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/state/state_codec.h"

namespace baton {

class StateDestination {
 public:
  virtual ~StateDestination() = default;
  // Of the logs.
  virtual std::string request_id() const = 0;
  // INVALID_ARGUMENT: a later message of the stream names something else.
  virtual absl::Status CheckHead(const worker::v1::StateChunk& head) const = 0;
  // Errors of StateReader::Feed; NOT_FOUND when the state is not wanted any more.
  virtual absl::Status Feed(absl::Span<const absl::string_view> frames) = 0;
  virtual void CountBytes(int64_t bytes) = 0;
  // nullptr until a commit was fed.
  virtual const CommitRecord* commit() const = 0;
  virtual int64_t bytes_received() const = 0;

  // How it ends, one of these: the commit was fed, and what to tell the sender; what came is of no use, for this
  // reason, and what to tell the sender; the sender went away before its commit.
  virtual absl::Status Complete() = 0;
  virtual absl::Status Reject(const absl::Status& status) = 0;
  virtual void SenderGone() = 0;
};

}  // namespace baton
