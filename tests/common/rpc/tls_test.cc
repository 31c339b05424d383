// What needs no certificates; tests/e2e/tls_test.py has them.
#include "common/rpc/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/temporary_directory.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

TEST(Tls, PeersAreAllowedByExactName) {
  const std::vector<std::string> allowed = {"gateway.test", "spiffe://test/prefill"};
  EXPECT_TRUE(IsAllowedPeer(allowed, {"other.test", "gateway.test"}, {}, ""));
  EXPECT_TRUE(IsAllowedPeer(allowed, {}, {"spiffe://test/prefill"}, ""));
  EXPECT_FALSE(IsAllowedPeer(allowed, {"evil-gateway.test", "gateway.test.evil", "*.test"}, {"spiffe://test"}, ""));
  EXPECT_FALSE(IsAllowedPeer(allowed, {}, {}, ""));
  // The common name counts only where there is no better one.
  EXPECT_TRUE(IsAllowedPeer(allowed, {}, {}, "gateway.test"));
  EXPECT_FALSE(IsAllowedPeer(allowed, {"visitor.test"}, {}, "gateway.test"));
  EXPECT_FALSE(IsAllowedPeer({}, {"gateway.test"}, {}, ""));
}

TEST(Tls, WithoutFlagsThereIsNone) {
  const auto tls = TlsCredentials::Create({});
  ASSERT_TRUE(tls.ok());
  EXPECT_EQ((*tls)->server(), nullptr);
  EXPECT_EQ((*tls)->Secure(ChannelOptions()).credentials, nullptr);
}

TEST(Tls, FlagsThatDoNotGoTogetherAndFilesThatAreNot) {
  const TemporaryDirectory directory;
  directory.Write("empty", "");
  const std::string empty = directory.path() + "/empty";
  const auto error = [](const TlsFlags& flags) {
    return std::string(TlsCredentials::Create(flags).status().message());
  };
  EXPECT_THAT(error({.cert = "a"}), HasSubstr("--tls-cert needs --tls-key"));
  EXPECT_THAT(error({.client_ca = "a"}), HasSubstr("--tls-client-ca needs --tls-cert"));
  EXPECT_THAT(error({.ca = "a", .client_key = "b"}), HasSubstr("--tls-client-key needs --tls-client-cert"));
  EXPECT_THAT(error({.server_name = "a"}), HasSubstr("--tls-server-name needs --tls-ca"));
  EXPECT_THAT(error({.ca = "/nowhere"}), HasSubstr("cannot read /nowhere"));
  EXPECT_THAT(error({.ca = empty}), HasSubstr(empty + ": there is no PEM certificate"));
  EXPECT_THAT(error({.cert = empty, .key = empty}), HasSubstr(empty + ": there is no PEM certificate"));
}

}  // namespace
}  // namespace baton
