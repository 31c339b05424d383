#include "prefill/handoff_failure.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

struct Case {
  absl::StatusCode received;
  absl::StatusCode reported;
  HandoffFailureKind kind;
  const char* reason;
};

TEST(HandoffFailureTest, EveryCodeHasItsMeaning) {
  using Code = absl::StatusCode;
  const std::vector<Case> cases = {
      {Code::kUnavailable, Code::kUnavailable, HandoffFailureKind::kUnreachable, "HANDOFF_FAILED"},
      {Code::kNotFound, Code::kUnavailable, HandoffFailureKind::kRefused, "HANDOFF_FAILED"},
      {Code::kAlreadyExists, Code::kUnavailable, HandoffFailureKind::kRefused, "HANDOFF_FAILED"},
      {Code::kCancelled, Code::kUnavailable, HandoffFailureKind::kCancelled, "HANDOFF_FAILED"},
      {Code::kInternal, Code::kUnavailable, HandoffFailureKind::kRefused, "HANDOFF_FAILED"},
      {Code::kResourceExhausted, Code::kUnavailable, HandoffFailureKind::kRefused, "HANDOFF_FAILED"},
      {Code::kUnimplemented, Code::kUnavailable, HandoffFailureKind::kRefused, "HANDOFF_FAILED"},
      {Code::kDataLoss, Code::kDataLoss, HandoffFailureKind::kCorrupt, "STATE_CORRUPT"},
      {Code::kInvalidArgument, Code::kDataLoss, HandoffFailureKind::kCorrupt, "STATE_CORRUPT"},
      {Code::kFailedPrecondition, Code::kFailedPrecondition, HandoffFailureKind::kRefused, ""},
      {Code::kDeadlineExceeded, Code::kDeadlineExceeded, HandoffFailureKind::kCancelled, ""},
  };
  for (const Case& c : cases) {
    const HandoffFailure failure = ExplainHandoffFailure(absl::Status(c.received, "what it said"), "host:1");
    EXPECT_EQ(failure.status.code(), c.reported) << absl::StatusCodeToString(c.received);
    EXPECT_EQ(failure.kind, c.kind) << absl::StatusCodeToString(c.received);
    EXPECT_EQ(ErrorReason(failure.status), c.reason) << absl::StatusCodeToString(c.received);
    EXPECT_EQ(failure.status.message(), "the handoff to host:1 failed: what it said");
  }
}

TEST(HandoffFailureTest, TheReceiversDetailsAreKept) {
  const absl::Status received = WithReason(absl::FailedPreconditionError("another model"), "FINGERPRINT_MISMATCH");
  EXPECT_EQ(ErrorReason(ExplainHandoffFailure(received, "host:1").status), "FINGERPRINT_MISMATCH");
  const absl::Status busy = WithRetryAfter(absl::UnavailableError("draining"), absl::Seconds(3), "DRAINING");
  const HandoffFailure failure = ExplainHandoffFailure(busy, "host:1");
  EXPECT_EQ(ErrorReason(failure.status), "HANDOFF_FAILED");
  EXPECT_EQ(RetryDelay(failure.status), absl::Seconds(3));
}

}  // namespace
}  // namespace baton
