#include "common/rpc/trace_metadata.h"

#include "gtest/gtest.h"

namespace baton {
namespace {

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

TEST(TraceParentTest, ReadsMetadata) {
  const auto context =
      TraceParent(Metadata{{"traceparent", kParent}, {"tracestate", "a=1"}, {"tracestate", "b=2"}, {"other", "x"}});
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(FormatTraceparent(*context), kParent);
  EXPECT_EQ(context->trace_state, "a=1,b=2");
}

TEST(TraceParentTest, NoneOrWrongIsNone) {
  EXPECT_FALSE(TraceParent({}).has_value());
  EXPECT_FALSE(TraceParent(Metadata{{"tracestate", "a=1"}}).has_value());
  EXPECT_FALSE(TraceParent(Metadata{{"traceparent", "what"}, {"tracestate", "a=1"}}).has_value());
  EXPECT_FALSE(TraceParent(Metadata{{"traceparent", kParent}, {"traceparent", kParent}}).has_value());
}

TEST(TraceParentTest, ABadStateDoesNotCostTheParent) {
  const auto context = TraceParent(Metadata{{"traceparent", kParent}, {"tracestate", "no list"}});
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_state, "");
}

}  // namespace
}  // namespace baton
