#include "common/rpc/reset_guard.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file_descriptor.h"
#include "common/base/listening_sockets.h"
#include "common/rpc/server.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kMaxResets = 1000;

class JudgeTest : public testing::Test {
 protected:
  // A tenth of a second after the last time. `started`: calls, since ever.
  std::vector<std::string> Judge(int64_t started, const std::vector<ConnectionCalls>& connections) {
    now_ += std::chrono::milliseconds(100);
    const auto look = [&] {
      ++looks_;
      return connections;
    };
    return guard_.Judge(started, look, now_);
  }

  ResetGuard guard_{kMaxResets, /*max_streams=*/100};
  // Far ahead: looking takes time, too.
  ResetGuard::Clock::time_point now_ = ResetGuard::Clock::now() + std::chrono::hours(1);
  int looks_ = 0;
};

TEST_F(JudgeTest, DoesNotLookAtCalmServers) {
  EXPECT_THAT(Judge(50000, {}), IsEmpty());
  EXPECT_THAT(Judge(50090, {{1, "a:1", 50090, 0, 50090}}), IsEmpty());
  EXPECT_EQ(looks_, 0);
  EXPECT_FALSE(guard_.floods());
}

TEST_F(JudgeTest, ManyCallsAreNoFlood) {
  Judge(0, {});
  EXPECT_THAT(Judge(5000, {{1, "a:1", 5000, 4890, 40}}), IsEmpty());
  EXPECT_THAT(Judge(10000, {{1, "a:1", 10000, 9850, 80}}), IsEmpty());
  EXPECT_EQ(looks_, 2);
  EXPECT_FALSE(guard_.floods());
}

TEST_F(JudgeTest, WhoResetsMostOfItsCallsGoesAtOnce) {
  Judge(0, {});
  EXPECT_THAT(Judge(5000, {{1, "busy:1", 4000, 3090, 900}, {2, "flood:2", 4500, 0, 4500}, {3, "few:3", 8, 0, 8}}),
              ElementsAre("flood:2"));
  EXPECT_TRUE(guard_.floods());
}

TEST_F(JudgeTest, WhoHasMoreOpenThanItCanHaveHasResetThem) {
  Judge(0, {});
  EXPECT_THAT(Judge(5000, {{1, "flood:1", 4500, 0, 9}, {2, "busy:2", 100, 0, 0}}), ElementsAre("flood:1"));
}

TEST_F(JudgeTest, WhoGoesOnResettingGoesNext) {
  Judge(0, {});
  EXPECT_THAT(Judge(5000, {{1, "busy:1", 4000, 3090, 900}}), IsEmpty());
  EXPECT_THAT(Judge(7000, {{1, "busy:1", 5500, 3190, 2300}, {2, "new:2", 6, 0, 5}}), ElementsAre("busy:1"));
}

TEST_F(JudgeTest, ManyConnectionsWithFewResetsEachAreAFlood) {
  Judge(0, {});
  std::vector<ConnectionCalls> connections;
  for (int i = 0; i < 9; ++i) connections.push_back({i, absl::StrCat("flood:", i), 150, 0, 150});
  connections.push_back({9, "few:9", 5, 0, 5});
  EXPECT_EQ(Judge(1400, connections).size(), 9u);
}

TEST_F(JudgeTest, BurstsAreNoFloodUntilTheyAddUp) {
  Judge(0, {});
  EXPECT_THAT(Judge(600, {{1, "a:1", 600, 0, 600}}), IsEmpty());
  EXPECT_THAT(Judge(1400, {{1, "a:1", 1400, 0, 1400}}), IsEmpty());
  EXPECT_THAT(Judge(2000, {{1, "a:1", 2000, 0, 2000}}), ElementsAre("a:1"));
}

TEST_F(JudgeTest, CallsCancelledAllAtOnceAreNobodysFault) {
  Judge(20000, {});
  EXPECT_THAT(Judge(20050, {{1, "a:1", 20000, 5000, 15000}}), IsEmpty());
  EXPECT_FALSE(guard_.floods());
}

TEST_F(JudgeTest, CalmAgainAfterAWhile) {
  Judge(0, {});
  Judge(5000, {{2, "flood:2", 4500, 0, 4500}});
  EXPECT_TRUE(guard_.floods());
  Judge(5000, {});
  EXPECT_TRUE(guard_.floods());
  now_ += std::chrono::seconds(2);
  Judge(5000, {});
  EXPECT_FALSE(guard_.floods());
}

TEST_F(JudgeTest, LooksAtMostATenthOfTheTime) {
  const auto slow = [this] {
    ++looks_;
    absl::SleepFor(absl::Milliseconds(2));
    return std::vector<ConnectionCalls>();
  };
  const ResetGuard::Clock::time_point start = ResetGuard::Clock::now();
  guard_.Judge(0, slow, start - std::chrono::milliseconds(15));
  guard_.Judge(4000, slow, start);
  guard_.Judge(8000, slow, start + std::chrono::milliseconds(15));
  EXPECT_EQ(looks_, 1);
  guard_.Judge(12000000, slow, start + std::chrono::hours(1));
  EXPECT_EQ(looks_, 2);
}

// A connection with the server at `port`.
FileDescriptor ConnectTo(int port) {
  FileDescriptor peer(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(peer.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return peer;
}

std::string OwnName(const FileDescriptor& socket) {
  sockaddr_in address = {};
  socklen_t size = sizeof(address);
  EXPECT_EQ(getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

TEST(DisconnectTest, EndsTheConnectionsOfThesePeersAlone) {
  const absl::StatusOr<ListeningSockets> listening = Listen("127.0.0.1:0", "--listen");
  ASSERT_TRUE(listening.ok()) << listening.status();
  const FileDescriptor first = ConnectTo(listening->port);
  const FileDescriptor second = ConnectTo(listening->port);
  const FileDescriptor served_first(accept(listening->sockets[0].get(), nullptr, nullptr));
  const FileDescriptor served_second(accept(listening->sockets[0].get(), nullptr, nullptr));
  ASSERT_TRUE(served_first.is_open() && served_second.is_open());
  EXPECT_EQ(PeerOf(served_first.get()), OwnName(first));
  ASSERT_EQ(send(first.get(), "unread", 6, 0), 6);
  ASSERT_EQ(send(second.get(), "x", 1, 0), 1);

  Disconnect({OwnName(first)});
  char byte;
  EXPECT_LE(recv(served_first.get(), &byte, 1, MSG_DONTWAIT), 0);
  EXPECT_EQ(recv(first.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_EQ(recv(served_second.get(), &byte, 1, 0), 1);
}

TEST(CallCountsTest, CountsCallsAndTheirConnections) {
  const int64_t before = CountStartedCalls();
  RpcServer server({});
  ASSERT_TRUE(server.Start().ok());
  const auto channel = grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials());
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
    grpc::Status status;
    const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::ByteBuffer(), &queue);
    call->StartCall();
    call->Finish(&answer, &status, nullptr);
    void* tag;
    bool ok;
    ASSERT_TRUE(queue.Next(&tag, &ok));
  }
  EXPECT_EQ(CountStartedCalls() - before, 3);
  const std::vector<ConnectionCalls> connections = CountConnectionCalls();
  ASSERT_EQ(connections.size(), 1u);
  EXPECT_THAT(connections[0].peer, testing::StartsWith("127.0.0.1:"));
  EXPECT_EQ(connections[0].started, 3);
  queue.Shutdown();
}

}  // namespace
}  // namespace baton
