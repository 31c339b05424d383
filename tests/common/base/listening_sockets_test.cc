#include "common/base/listening_sockets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace baton {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Refusal(const std::string& address) {
  const absl::StatusOr<ListeningSockets> listening = Listen(address, "--there");
  EXPECT_EQ(listening.status().code(), absl::StatusCode::kUnavailable) << address;
  return std::string(listening.status().message());
}

TEST(ListenTest, PicksAPortThatPeersReach) {
  const absl::StatusOr<ListeningSockets> listening = Listen("127.0.0.1:0", "--there");
  ASSERT_TRUE(listening.ok()) << listening.status();
  ASSERT_EQ(listening->sockets.size(), 1u);
  ASSERT_GT(listening->port, 0);
  const FileDescriptor peer(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(listening->port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(peer.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

TEST(ListenTest, OnePortOnAllAddressesOfAName) {
  const absl::StatusOr<ListeningSockets> listening = Listen("localhost:0", "--there");
  ASSERT_TRUE(listening.ok()) << listening.status();
  for (const FileDescriptor& one : listening->sockets) {
    sockaddr_in6 address = {};
    socklen_t size = sizeof(address);
    ASSERT_EQ(getsockname(one.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    // At the same place in addresses of both families.
    EXPECT_EQ(ntohs(address.sin6_port), listening->port);
  }
}

TEST(ListenTest, RefusalsSayWhyAndWhatToDo) {
  const absl::StatusOr<ListeningSockets> first = Listen("127.0.0.1:0", "--there");
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string taken = absl::StrCat("127.0.0.1:", first->port);
  EXPECT_THAT(Refusal(taken), AllOf(HasSubstr(taken), HasSubstr("the port is in use"), HasSubstr("--there HOST:PORT")));
  EXPECT_THAT(Refusal("nowhere"), HasSubstr("it is not HOST:PORT"));
  // An address of the block for documentation (RFC 5737).
  EXPECT_THAT(Refusal("192.0.2.1:0"), HasSubstr("the address is not this host's"));
  EXPECT_THAT(Refusal("127.0.0.1:port"), AllOf(HasSubstr("127.0.0.1:port"), HasSubstr("--there")));
}

}  // namespace
}  // namespace baton
