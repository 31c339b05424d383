// absl::Status inside, grpc::Status with google.rpc details at the edge.
//
//   return ToGrpcStatus(WithRetryAfter(absl::ResourceExhaustedError("decode memory is full"), absl::Seconds(1),
//                                      "DECODE_MEMORY_FULL"));
//
// Details travel inside absl::Status as payloads (type URLs of google.rpc messages) and become the serialized
// google.rpc.Status of grpc-status-details-bin; FromGrpcStatus is the inverse, so that a worker's details reach the
// client.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace baton {

inline constexpr char kErrorDomain[] = "baton";

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// ErrorInfo{reason, domain "baton"}; reasons are UPPER_SNAKE_CASE and listed in docs/api.md.
absl::Status WithReason(absl::Status status, absl::string_view reason);
// ErrorInfo and RetryInfo.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay, absl::string_view reason);
// INVALID_ARGUMENT with BadRequest; the message is the first violation (and how many more). `violations` must not be
// empty: (field, description).
absl::Status BadRequestError(const std::vector<std::pair<std::string, std::string>>& violations);

// Empty when there is none.
std::string ErrorReason(const absl::Status& status);
// Zero when there is none.
absl::Duration RetryDelay(const absl::Status& status);

}  // namespace baton
