#include "gateway/client.h"

#include <chrono>
#include <memory>

#include <gtest/gtest.h>

#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using std::chrono::seconds;

class ClientTest : public ::testing::Test {
 protected:
  std::shared_ptr<Client> Make(const ClientLimits& limits) {
    return std::make_shared<Client>("alice", limits, &client_metrics_, start_);
  }

  Metrics metrics_{"gateway"};
  ClientMetrics client_metrics_{&metrics_, "alice"};
  const Clock::time_point start_ = Clock::now();
};

TEST_F(ClientTest, WithoutLimitsAllMayEnter) {
  const auto client = Make({});
  std::vector<std::shared_ptr<ClientPass>> passes;
  for (int i = 0; i < 1000; ++i) {
    auto pass = client->Admit(start_);
    ASSERT_TRUE(pass.ok());
    passes.push_back(*pass);
  }
  passes.front()->Finish(1 << 30);
  EXPECT_TRUE(client->Admit(start_).ok());
}

TEST_F(ClientTest, SoManyAtATime) {
  const auto client = Make({.concurrent = 2});
  auto first = *client->Admit(start_);
  auto second = *client->Admit(start_);
  const absl::Status refused = client->Admit(start_).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(refused), "CLIENT_CONCURRENCY");
  EXPECT_GT(RetryDelay(refused), absl::ZeroDuration());
  first->Finish(1);
  // Only once, however often it is told.
  first->Finish(1);
  first.reset();
  auto third = *client->Admit(start_);
  EXPECT_FALSE(client->Admit(start_).ok());
  // One that is dropped leaves as well.
  second.reset();
  EXPECT_TRUE(client->Admit(start_).ok());
}

TEST_F(ClientTest, SoManyRequestsAMinute) {
  const auto client = Make({.requests_per_minute = 6});
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(client->Admit(start_).ok());
  const absl::Status refused = client->Admit(start_).status();
  EXPECT_EQ(ErrorReason(refused), "CLIENT_REQUEST_RATE");
  EXPECT_EQ(RetryDelay(refused), absl::Seconds(10));
  EXPECT_FALSE(client->Admit(start_ + seconds(9)).ok());
  EXPECT_TRUE(client->Admit(start_ + seconds(10)).ok());
  EXPECT_FALSE(client->Admit(start_ + seconds(10)).ok());
  // Never more than a minute's worth at once.
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(client->Admit(start_ + seconds(3600)).ok());
  EXPECT_FALSE(client->Admit(start_ + seconds(3600)).ok());
}

// What is taken is taken at Clock::now(), which is at or shortly after start_.
TEST_F(ClientTest, TokensAreOwedAndPaidBack) {
  const auto client = Make({.tokens_per_minute = 6000});
  (*client->Admit(start_))->Finish(12000);
  const absl::Status refused = client->Admit(start_).status();
  EXPECT_EQ(ErrorReason(refused), "CLIENT_TOKEN_RATE");
  EXPECT_GT(RetryDelay(refused), absl::Seconds(50));
  EXPECT_LE(RetryDelay(refused), absl::Seconds(61));
  EXPECT_FALSE(client->Admit(start_ + seconds(30)).ok());
  EXPECT_TRUE(client->Admit(Clock::now() + seconds(62)).ok());
}

TEST_F(ClientTest, NewLimitsKeepWhatIsUsed) {
  const auto client = Make({.requests_per_minute = 2});
  ASSERT_TRUE(client->Admit(start_).ok());
  ASSERT_TRUE(client->Admit(start_).ok());
  client->SetLimits({.requests_per_minute = 10}, start_);
  EXPECT_FALSE(client->Admit(start_).ok());
  EXPECT_TRUE(client->Admit(start_ + seconds(6)).ok());
  client->SetLimits({}, start_);
  EXPECT_TRUE(client->Admit(start_).ok());
}

}  // namespace
}  // namespace baton
