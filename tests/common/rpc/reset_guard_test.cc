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

constexpr int64_t kMaxOrphans = 1000;

class JudgeTest : public testing::Test {
 protected:
  // `started` and `finished`: of the whole server, since ever.
  std::vector<std::string> Judge(int64_t started, int64_t finished, std::vector<ConnectionCalls> connections) {
    now_ += std::chrono::hours(1);
    return guard_.Judge(
        {started, finished},
        [&] {
          ++looks_;
          return connections;
        },
        now_);
  }

  ResetGuard guard_{kMaxOrphans};
  ResetGuard::Clock::time_point now_ = ResetGuard::Clock::now();
  int looks_ = 0;
};

TEST_F(JudgeTest, DoesNotLookAtCalmServers) {
  EXPECT_THAT(Judge(50000, 49500, {}), IsEmpty());
  EXPECT_EQ(looks_, 0);
  EXPECT_FALSE(guard_.overwhelmed());
}

TEST_F(JudgeTest, OpenStreamsAreNoOrphans) {
  EXPECT_THAT(Judge(50000, 30000, {{1, "a:1", 19500, 0, 0}}), IsEmpty());
  EXPECT_EQ(looks_, 1);
  EXPECT_FALSE(guard_.overwhelmed());
}

TEST_F(JudgeTest, WhoResetsMostOfItsCallsGoesAtOnce) {
  EXPECT_THAT(Judge(9000, 4000, {{1, "busy:1", 10, 4000, 900}, {2, "flood:2", 0, 4500, 4500}, {3, "few:3", 0, 60, 60}}),
              ElementsAre("flood:2"));
  EXPECT_TRUE(guard_.overwhelmed());
}

TEST_F(JudgeTest, WhoGoesOnResettingGoesNext) {
  const ConnectionCalls busy = {1, "busy:1", 10, 4000, 900};
  EXPECT_THAT(Judge(9000, 4000, {busy}), IsEmpty());
  EXPECT_THAT(Judge(9500, 4100, {{1, "busy:1", 10, 4500, 1300}, {2, "new:2", 1, 5, 5}}), ElementsAre("busy:1"));
}

TEST_F(JudgeTest, CallsCancelledAllAtOnceAreNobodysFault) {
  EXPECT_THAT(Judge(20000, 5000, {{1, "a:1", 15000, 5000, 0}}), IsEmpty());
  EXPECT_THAT(Judge(20000, 5100, {{1, "a:1", 0, 20000, 15000}}), IsEmpty());
  EXPECT_THAT(Judge(20050, 9000, {{1, "a:1", 50, 20000, 15000}}), IsEmpty());
  EXPECT_FALSE(Judge(20050, 20050, {}).size() > 0 || guard_.overwhelmed());
}

TEST_F(JudgeTest, AcceptsAgainWhenAllIsClearedUp) {
  Judge(9000, 4000, {{2, "flood:2", 0, 4500, 4500}});
  EXPECT_TRUE(guard_.overwhelmed());
  Judge(9000, 5000, {});
  EXPECT_TRUE(guard_.overwhelmed());
  Judge(9000, 8500, {});
  EXPECT_FALSE(guard_.overwhelmed());
}

TEST_F(JudgeTest, LooksAtMostATenthOfTheTime) {
  const auto slow = [this] {
    ++looks_;
    absl::SleepFor(absl::Milliseconds(2));
    return std::vector<ConnectionCalls>();
  };
  const ResetGuard::Clock::time_point start = ResetGuard::Clock::now();
  guard_.Judge({5000, 0}, slow, start);
  guard_.Judge({9000, 0}, slow, start + std::chrono::milliseconds(15));
  EXPECT_EQ(looks_, 1);
  guard_.Judge({15000, 0}, slow, start + std::chrono::hours(1));
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
  const ServerCalls before = CountCalls();
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
  const ServerCalls after = CountCalls();
  EXPECT_EQ(after.started - before.started, 3);
  const std::vector<ConnectionCalls> connections = CountConnectionCalls();
  ASSERT_EQ(connections.size(), 1u);
  EXPECT_THAT(connections[0].peer, testing::StartsWith("127.0.0.1:"));
  EXPECT_EQ(connections[0].closed + connections[0].open, 3);
  queue.Shutdown();
}

}  // namespace
}  // namespace baton
