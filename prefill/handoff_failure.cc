#include "prefill/handoff_failure.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

absl::Status WithPrefix(absl::StatusCode code, const absl::Status& received, const std::string& endpoint) {
  absl::Status status(code, absl::StrCat("the handoff to ", endpoint, " failed: ", received.message()));
  received.ForEachPayload(
      [&](absl::string_view type_url, const absl::Cord& payload) { status.SetPayload(type_url, payload); });
  return status;
}

}  // namespace

HandoffFailure ExplainHandoffFailure(const absl::Status& received, const std::string& endpoint) {
  switch (received.code()) {
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInvalidArgument:  // It could not make sense of the stream.
      return {HandoffFailureKind::kCorrupt,
              WithReason(WithPrefix(absl::StatusCode::kDataLoss, received, endpoint), "STATE_CORRUPT")};
    case absl::StatusCode::kFailedPrecondition:
      return {HandoffFailureKind::kRefused, WithPrefix(received.code(), received, endpoint)};
    case absl::StatusCode::kDeadlineExceeded:  // The deadline is that of Prefill.Run itself.
      return {HandoffFailureKind::kCancelled, WithPrefix(received.code(), received, endpoint)};
    default:
      break;
  }
  HandoffFailure failure;
  failure.status = WithReason(WithPrefix(absl::StatusCode::kUnavailable, received, endpoint), "HANDOFF_FAILED");
  if (received.code() == absl::StatusCode::kCancelled) {
    failure.kind = HandoffFailureKind::kCancelled;
  } else if (received.code() != absl::StatusCode::kUnavailable) {
    failure.kind = HandoffFailureKind::kRefused;
  }
  return failure;
}

}  // namespace baton
