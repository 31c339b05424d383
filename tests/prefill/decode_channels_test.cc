#include "prefill/decode_channels.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(DecodeChannelsTest, OneChannelForEachEndpointUntilForgotten) {
  DecodeChannels channels;
  const absl::Time now = absl::UnixEpoch();
  const std::shared_ptr<grpc::Channel> a = channels.Get("127.0.0.1:1", now);
  EXPECT_EQ(channels.Get("127.0.0.1:1", now), a);
  EXPECT_NE(channels.Get("127.0.0.1:2", now), a);
  EXPECT_EQ(channels.size(), 2u);
  channels.Forget("127.0.0.1:1");
  channels.Forget("127.0.0.1:3");
  EXPECT_EQ(channels.size(), 1u);
  EXPECT_NE(channels.Get("127.0.0.1:1", now), a);
}

TEST(DecodeChannelsTest, IdleOnesAreDropped) {
  DecodeChannels channels;
  const absl::Time start = absl::UnixEpoch();
  channels.Get("127.0.0.1:1", start);
  channels.Get("127.0.0.1:2", start);
  channels.Get("127.0.0.1:2", start + absl::Minutes(1.5));
  channels.Get("127.0.0.1:3", start + absl::Minutes(3));
  EXPECT_EQ(channels.size(), 2u);
}

}  // namespace
}  // namespace baton
