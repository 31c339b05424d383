#include "common/rpc/decode_peers.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(DecodePeersTest, OneForEachEndpointUntilForgotten) {
  DecodePeers peers(1 << 20);
  const absl::Time now = absl::UnixEpoch();
  const std::shared_ptr<DecodePeer> a = peers.Get("127.0.0.1:1", now);
  EXPECT_EQ(peers.Get("127.0.0.1:1", now), a);
  EXPECT_NE(peers.Get("127.0.0.1:2", now), a);
  EXPECT_EQ(peers.size(), 2u);
  peers.Forget("127.0.0.1:1");
  peers.Forget("127.0.0.1:3");
  EXPECT_EQ(peers.size(), 1u);
  EXPECT_NE(peers.Get("127.0.0.1:1", now), a);
}

TEST(DecodePeersTest, IdleOnesAreDropped) {
  DecodePeers peers(1 << 20);
  const absl::Time start = absl::UnixEpoch();
  peers.Get("127.0.0.1:1", start);
  peers.Get("127.0.0.1:2", start);
  peers.Get("127.0.0.1:2", start + absl::Minutes(1.5));
  peers.Get("127.0.0.1:3", start + absl::Minutes(3));
  EXPECT_EQ(peers.size(), 2u);
}

}  // namespace
}  // namespace baton
