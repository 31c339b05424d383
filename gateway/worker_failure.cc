#include "gateway/worker_failure.h"

#include "absl/strings/str_cat.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

// A client's status with the worker's reason and retry delay, and a message that says where it happened.
absl::Status Rewrite(absl::StatusCode code, const absl::Status& from, const std::string& where) {
  absl::Status status(code, absl::StrCat(where, ": ", from.message()));
  from.ForEachPayload(
      [&](absl::string_view type_url, const absl::Cord& payload) { status.SetPayload(type_url, payload); });
  return status;
}

}  // namespace

WorkerFailure ClassifyFailure(Stage stage, const std::string& endpoint, const grpc::Status& grpc_status) {
  const absl::Status from = FromGrpcStatus(grpc_status);
  const std::string reason = ErrorReason(from);
  const std::string where = absl::StrCat(StageName(stage), " worker ", endpoint);
  const Stage other = stage == Stage::kPrefill ? Stage::kDecode : Stage::kPrefill;
  WorkerFailure failure;
  failure.blamed = reason == "HANDOFF_FAILED" ? other : stage;
  switch (from.code()) {
    case absl::StatusCode::kUnavailable:
    // A worker that shuts down cancels what it still has.
    case absl::StatusCode::kCancelled:
      failure.kind = FailureKind::kRetriable;
      failure.status = Rewrite(absl::StatusCode::kUnavailable, from, where);
      break;
    case absl::StatusCode::kFailedPrecondition:
      // It was restarted with another model a moment ago.
      failure.kind = reason == "FINGERPRINT_MISMATCH" ? FailureKind::kRetriable : FailureKind::kFinal;
      failure.status = Rewrite(
          failure.kind == FailureKind::kRetriable ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal, from,
          where);
      break;
    case absl::StatusCode::kResourceExhausted: {
      // Other kinds are no lack of room: a message too large for gRPC, or this gateway reading too slowly.
      const bool full = reason == "DECODE_MEMORY_FULL" || reason == "PREFILL_MEMORY_FULL" || reason == "QUEUE_FULL";
      failure.kind = full ? FailureKind::kFull : FailureKind::kFinal;
      failure.status = Rewrite(full ? from.code() : absl::StatusCode::kInternal, from, where);
      break;
    }
    case absl::StatusCode::kInvalidArgument: {
      // The gateway checks requests itself; only the worker's own limits may surprise it.
      const bool too_large = reason == "PROMPT_TOO_LONG" || reason == "PREFILL_MEMORY_FULL";
      failure.status = Rewrite(too_large ? from.code() : absl::StatusCode::kInternal, from, where);
      break;
    }
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kDataLoss:
      failure.status = Rewrite(from.code(), from, where);
      break;
    default:
      failure.status = Rewrite(absl::StatusCode::kInternal, from, where);
      break;
  }
  return failure;
}

}  // namespace baton
