#include "gateway/authenticator.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/rpc/status_mapping.h"
#include "gateway/request_check.h"
#include "tests/eventually.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Line(const std::string& name, const std::string& key, const std::string& limits = "") {
  return absl::StrCat(name, " ", absl::BytesToHexString(Sha256(key)), " ", limits, "\n");
}

class AuthenticatorTest : public ::testing::Test {
 protected:
  absl::StatusOr<Caller> Call(const std::vector<std::pair<std::string, std::string>>& metadata,
                              absl::Time now = absl::FromUnixSeconds(1000000000)) {
    CallMetadata map;
    for (const auto& [key, value] : metadata) map.emplace(key, value);
    return authenticator_.Authenticate(map, "ipv4:1.2.3.4:5", now);
  }
  std::string ReasonOf(const std::vector<std::pair<std::string, std::string>>& metadata) {
    const auto caller = Call(metadata);
    if (caller.ok()) return "(let in)";
    EXPECT_EQ(caller.status().code(), absl::StatusCode::kUnauthenticated);
    return ErrorReason(caller.status());
  }

  Metrics metrics_{"gateway"};
  Authenticator authenticator_{&metrics_};
};

TEST_F(AuthenticatorTest, WithoutKeysEverybodyMayCall) {
  const auto nobody = Call({});
  ASSERT_TRUE(nobody.ok());
  EXPECT_EQ(nobody->identity, NoIdentity());
  EXPECT_EQ(nobody->client, nullptr);
  EXPECT_EQ(Call({{"authorization", "anything"}})->identity, Sha256("anything"));
  EXPECT_EQ(Call({{"x-api-key", "k"}})->identity, Sha256("k"));
}

TEST_F(AuthenticatorTest, LetsGoodKeysIn) {
  ASSERT_TRUE(authenticator_.SetKeys(Line("alice", "a1") + Line("alice", "a2") + Line("bob", "b")).ok());
  const auto alice = Call({{"authorization", "Bearer a1"}});
  ASSERT_TRUE(alice.ok()) << alice.status();
  EXPECT_EQ(alice->client->name(), "alice");
  EXPECT_EQ(alice->identity.size(), size_t{kIdentityBytes});
  // Another key of hers is she; other ways to send it too.
  EXPECT_EQ(Call({{"authorization", "bearer a2"}})->identity, alice->identity);
  EXPECT_EQ(Call({{"x-api-key", "a1"}})->client, alice->client);
  EXPECT_NE(Call({{"x-api-key", "b"}})->identity, alice->identity);
}

TEST_F(AuthenticatorTest, RefusesAllOthers) {
  ASSERT_TRUE(authenticator_.SetKeys(Line("alice", "a", "expires=2001-01-01") + Line("bob", "b")).ok());
  EXPECT_EQ(ReasonOf({}), "API_KEY_MISSING");
  EXPECT_EQ(ReasonOf({{"authorization", "Bearer "}}), "API_KEY_MISSING");
  EXPECT_EQ(ReasonOf({{"authorization", "Bearer c"}}), "API_KEY_INVALID");
  EXPECT_EQ(ReasonOf({{"authorization", "Bearer b "}}), "API_KEY_INVALID");
  EXPECT_EQ(ReasonOf({{"authorization", "Basic b"}}), "API_KEY_INVALID");
  EXPECT_EQ(ReasonOf({{"authorization", "b"}}), "API_KEY_INVALID");
  EXPECT_EQ(ReasonOf({{"authorization", absl::BytesToHexString(Sha256("b"))}}), "API_KEY_INVALID");
  EXPECT_EQ(ReasonOf({{"authorization", "Bearer " + std::string(100000, 'b')}}), "API_KEY_INVALID");
  EXPECT_EQ(ReasonOf({{"authorization", "Bearer b"}, {"authorization", "Bearer c"}}), "API_KEY_INVALID");
  // The first header that is there decides.
  EXPECT_EQ(ReasonOf({{"authorization", "Bearer c"}, {"x-api-key", "b"}}), "API_KEY_INVALID");
  EXPECT_EQ(ReasonOf({{"x-api-key", "a"}}), "API_KEY_EXPIRED");
  EXPECT_EQ(ReasonOf({{"x-api-key", "b"}}), "(let in)");
}

TEST_F(AuthenticatorTest, KeysExpireAtTheirTime) {
  ASSERT_TRUE(authenticator_.SetKeys(Line("alice", "a", "expires=2027-01-31T00:00:00Z")).ok());
  const absl::Time end = absl::FromUnixSeconds(1801353600);
  EXPECT_TRUE(Call({{"x-api-key", "a"}}, end - absl::Seconds(1)).ok());
  EXPECT_FALSE(Call({{"x-api-key", "a"}}, end).ok());
}

// All but the first bytes of the hash, by which it is found, are compared.
TEST_F(AuthenticatorTest, TheWholeHashDecides) {
  std::string hash = absl::BytesToHexString(Sha256("a"));
  hash.back() = hash.back() == '0' ? '1' : '0';
  ASSERT_TRUE(authenticator_.SetKeys(absl::StrCat("alice ", hash)).ok());
  EXPECT_EQ(ReasonOf({{"x-api-key", "a"}}), "API_KEY_INVALID");
}

TEST_F(AuthenticatorTest, NewKeysKeepClientsAndBadOnesChangeNothing) {
  ASSERT_TRUE(authenticator_.SetKeys(Line("alice", "a", "concurrent=1")).ok());
  const auto pass = Call({{"x-api-key", "a"}})->client->Admit(Clock::now());
  ASSERT_TRUE(authenticator_.SetKeys(Line("alice", "new", "concurrent=1")).ok());
  EXPECT_EQ(ReasonOf({{"x-api-key", "a"}}), "API_KEY_INVALID");
  // What runs still counts.
  EXPECT_FALSE(Call({{"x-api-key", "new"}})->client->Admit(Clock::now()).ok());
  EXPECT_FALSE(authenticator_.SetKeys("alice").ok());
  EXPECT_FALSE(authenticator_.SetKeys("").ok());
  EXPECT_EQ(ReasonOf({{"x-api-key", "new"}}), "(let in)");
}

TEST_F(AuthenticatorTest, ReadsAFileAgainWhenItChanges) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/keys";
  const auto write = [&](const std::string& text) {
    std::ofstream(path + ".new") << text;
    std::rename((path + ".new").c_str(), path.c_str());
  };
  write("broken");
  const absl::Status broken = authenticator_.UseKeys(path);
  EXPECT_THAT(std::string(broken.message()), HasSubstr(path + ": line 1"));

  Authenticator other(&metrics_);
  EXPECT_THAT(std::string(other.UseKeys(path + ".absent").message()), HasSubstr("cannot read"));

  write(Line("alice", "a"));
  Authenticator reloaded(&metrics_);
  ASSERT_TRUE(reloaded.UseKeys(path, absl::Milliseconds(5)).ok());
  const auto let_in = [&](const std::string& key) {
    CallMetadata metadata;
    metadata.emplace("x-api-key", key);
    return reloaded.Authenticate(metadata).ok();
  };
  EXPECT_TRUE(let_in("a"));
  write(Line("alice", "b"));
  EXPECT_TRUE(Eventually([&] { return let_in("b"); }));
  EXPECT_FALSE(let_in("a"));
  auto& failed = metrics_.AddCounter("baton_reloads_total", "", {{"what", "api_keys"}, {"result", "failed"}});
  write("broken");
  EXPECT_TRUE(Eventually([&] { return failed.Value() == 1; }));
  EXPECT_TRUE(let_in("b"));
  std::remove(path.c_str());
  EXPECT_TRUE(Eventually([&] { return failed.Value() == 2; }));
  EXPECT_TRUE(let_in("b"));
  write(Line("alice", "c"));
  EXPECT_TRUE(Eventually([&] { return let_in("c"); }));
}

// Metrics are never given up, so there is a bound on their number.
TEST_F(AuthenticatorTest, MetricsOfClientsAreBounded) {
  for (int round = 0; round < 3; ++round) {
    std::string text;
    for (int i = 0; i < 100; ++i)
      absl::StrAppend(&text, Line(absl::StrCat("c", round, "-", i), absl::StrCat(round, i)));
    ASSERT_TRUE(authenticator_.SetKeys(text).ok());
  }
  size_t series = 0;
  for (const auto& family : metrics_.registry()->Collect()) {
    if (family.name == "baton_client_tokens_total") series = family.metric.size();
  }
  EXPECT_EQ(series, 2 * (100 + 1));
}

}  // namespace
}  // namespace baton
