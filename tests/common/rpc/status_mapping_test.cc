#include "common/rpc/status_mapping.h"

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

TEST(StatusMappingTest, RoundTripsCodeMessageAndDetails) {
  const absl::Status status =
      WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Milliseconds(1500), "QUEUE_FULL");
  const grpc::Status wire = ToGrpcStatus(status);
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(wire.error_message(), "full");
  const absl::Status back = FromGrpcStatus(wire);
  EXPECT_EQ(back, status);
  EXPECT_EQ(ErrorReason(back), "QUEUE_FULL");
  EXPECT_EQ(RetryDelay(back), absl::Milliseconds(1500));
}

TEST(StatusMappingTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(StatusMappingTest, BadRequestNamesEveryField) {
  const absl::Status status = BadRequestError({{"sampling.top_p", "must be in (0, 1]"}, {"stop", "too many"}});
  EXPECT_EQ(status.message(), "sampling.top_p: must be in (0, 1] (and 1 more)");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(ToGrpcStatus(status).error_details()));
  ASSERT_EQ(details.details_size(), 1);
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  ASSERT_EQ(bad_request.field_violations_size(), 2);
  EXPECT_EQ(bad_request.field_violations(1).field(), "stop");
}

TEST(StatusMappingTest, DetailsThatAreNotDetailsAreIgnored) {
  const absl::Status status = FromGrpcStatus(grpc::Status(grpc::StatusCode::INTERNAL, "x", "\xff\xff garbage"));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ErrorReason(status), "");
  EXPECT_EQ(RetryDelay(status), absl::ZeroDuration());
}

}  // namespace
}  // namespace baton
