// Workers found, lost, found again, dropped; names that resolve to several addresses.
#include "gateway/worker_registry.h"

#include <algorithm>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class RegistryTest : public ::testing::Test {
 protected:
  void Start(WorkerRegistryOptions options) {
    options.link.first_pause = std::chrono::milliseconds(5);
    options.link.largest_pause = std::chrono::milliseconds(20);
    options.resolve_interval = std::chrono::milliseconds(5);
    registry_ = std::make_unique<WorkerRegistry>(std::move(options));
    registry_->Start();
  }
  bool Has(const std::string& endpoint, WorkerState state) {
    return Eventually([&] {
      const std::vector<WorkerSnapshot> workers = registry_->Workers();
      return std::any_of(workers.begin(), workers.end(), [&](const WorkerSnapshot& worker) {
        return worker.endpoint == endpoint && worker.state == state;
      });
    });
  }
  WorkerSnapshot Only() {
    const std::vector<WorkerSnapshot> workers = registry_->Workers();
    EXPECT_EQ(workers.size(), 1u);
    return workers.at(0);
  }

  // What the name means from now on; no addresses: it does not resolve.
  void SetAddresses(std::vector<std::string> addresses) {
    std::lock_guard<std::mutex> lock(mutex_);
    addresses_ = std::move(addresses);
  }
  auto Resolver(const std::string& name) {
    return [this, name](const std::string& target) -> absl::StatusOr<std::vector<std::string>> {
      EXPECT_EQ(target, name);
      std::lock_guard<std::mutex> lock(mutex_);
      if (addresses_.empty()) return absl::UnavailableError("no such name");
      return addresses_;
    };
  }

  // The registry resolves to its end.
  std::mutex mutex_;
  std::vector<std::string> addresses_;
  std::unique_ptr<WorkerRegistry> registry_;
};

TEST_F(RegistryTest, LearnsWhoAWorkerIs) {
  FakePrefill prefill;
  Start({.prefill = {prefill.address()}, .decode = {}});
  ASSERT_TRUE(Has(prefill.address(), WorkerState::kServing));
  const WorkerSnapshot worker = Only();
  EXPECT_EQ(worker.info->boot_id(), prefill.info().boot_id());
  ASSERT_NE(worker.tokenizer, nullptr);
  EXPECT_EQ(worker.tokenizer->vocab_size(), worker.info->vocab_size());
  EXPECT_GE(worker.load_reports, 1u);
  prefill.load().SetQueuedTokens(77);
  EXPECT_TRUE(Eventually([&] { return Only().load.queued_tokens() == 77; }));
  prefill.load().SetDraining();
  EXPECT_TRUE(Has(prefill.address(), WorkerState::kDraining));
  prefill.Die();
  EXPECT_TRUE(Has(prefill.address(), WorkerState::kUnreachable));
  EXPECT_FALSE(Only().problem.empty());
}

TEST_F(RegistryTest, AWorkerOfTheWrongRoleIsNotUsed) {
  FakeDecode decode;
  Start({.prefill = {decode.address()}, .decode = {}});
  ASSERT_TRUE(Has(decode.address(), WorkerState::kUnreachable));
  EXPECT_THAT(Only().problem, HasSubstr("DECODE worker, listed as a PREFILL worker"));
}

TEST_F(RegistryTest, AWorkerThatMakesNoSenseIsNotUsed) {
  worker::v1::WorkerInfo info = TestWorkerInfo(worker::v1::WorkerInfo::PREFILL);
  info.set_fingerprint("short");
  FakePrefill prefill(info);
  Start({.prefill = {prefill.address()}, .decode = {}});
  ASSERT_TRUE(Has(prefill.address(), WorkerState::kUnreachable));
  EXPECT_THAT(Only().problem, HasSubstr("fingerprint"));
}

TEST_F(RegistryTest, AModelWithoutTokenizerIsServed) {
  worker::v1::WorkerInfo info = TestWorkerInfo(worker::v1::WorkerInfo::PREFILL);
  info.clear_tokenizer_hash();
  FakePrefill prefill(info);
  Start({.prefill = {prefill.address()}, .decode = {}});
  ASSERT_TRUE(Has(prefill.address(), WorkerState::kServing));
  EXPECT_EQ(Only().tokenizer, nullptr);
}

TEST_F(RegistryTest, OneNameManyWorkers) {
  FakeDecode a;
  FakeDecode b;
  SetAddresses({a.address()});
  WorkerRegistryOptions options;
  options.decode = {"decode.test:7201"};
  options.resolver = Resolver("decode.test:7201");
  Start(options);
  ASSERT_TRUE(Has(a.address(), WorkerState::kServing));
  SetAddresses({a.address(), b.address()});
  ASSERT_TRUE(Has(b.address(), WorkerState::kServing));
  // No longer listed, but healthy: followed to its end, then dropped.
  SetAddresses({b.address()});
  EXPECT_EQ(registry_->Workers().size(), 2u);
  a.Die();
  EXPECT_TRUE(Eventually([&] { return registry_->Workers().size() == 1; }));
  EXPECT_EQ(Only().endpoint, b.address());
  // A name that stops resolving takes nobody with it, and is shown.
  SetAddresses({});
  ASSERT_TRUE(Has("decode.test:7201", WorkerState::kUnreachable));
  EXPECT_TRUE(Has(b.address(), WorkerState::kServing));
}

TEST_F(RegistryTest, OneProcessAtTwoAddressesCountsOnce) {
  FakePrefill prefill;
  const std::string port = prefill.address().substr(prefill.address().rfind(':'));
  SetAddresses({"127.0.0.1" + port, "localhost" + port});
  WorkerRegistryOptions options;
  options.prefill = {"two.test:1"};
  options.resolver = Resolver("two.test:1");
  Start(options);
  ASSERT_TRUE(Eventually([&] {
    const std::vector<WorkerSnapshot> workers = registry_->Workers();
    return workers.size() == 1 && workers[0].state == WorkerState::kServing;
  }));
}

// Workers that are known from elsewhere.
class FakeDirectory final : public WorkerDirectory {
 public:
  std::string name() const override { return "the directory"; }
  void Start(std::function<void()> changed) override { changed_ = std::move(changed); }
  void Stop() override {}
  absl::StatusOr<std::vector<WorkerRecord>> Workers() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return workers_;
  }
  void Set(absl::StatusOr<std::vector<WorkerRecord>> workers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      workers_ = std::move(workers);
    }
    if (changed_) changed_();
  }

 private:
  mutable std::mutex mutex_;
  absl::StatusOr<std::vector<WorkerRecord>> workers_ = absl::UnavailableError("has not answered yet");
  std::function<void()> changed_;
};

TEST_F(RegistryTest, WorkersOfADirectory) {
  FakePrefill prefill;
  FakeDecode decode;
  const auto directory = std::make_shared<FakeDirectory>();
  WorkerRegistryOptions options;
  options.directory = directory;
  Start(options);
  ASSERT_TRUE(Has("the directory", WorkerState::kUnreachable));
  const WorkerRecord first = {"prefill", prefill.address(), "m", "p"};
  directory->Set(std::vector<WorkerRecord>{first, {"decode", decode.address(), "m", "d"}});
  ASSERT_TRUE(Has(prefill.address(), WorkerState::kServing));
  ASSERT_TRUE(Has(decode.address(), WorkerState::kServing));
  EXPECT_EQ(registry_->Workers().size(), 2u);
  // Withdrawn: followed until it stops serving, then dropped.
  directory->Set(std::vector<WorkerRecord>{first});
  EXPECT_TRUE(Has(decode.address(), WorkerState::kServing));
  decode.Die();
  EXPECT_TRUE(Eventually([&] { return registry_->Workers().size() == 1; }));
  // One whose name does not resolve is shown, and forgotten with its record.
  directory->Set(std::vector<WorkerRecord>{first, {"decode", "no-such-host.invalid:1", "m", "d"}});
  EXPECT_TRUE(Has("no-such-host.invalid:1", WorkerState::kUnreachable));
  directory->Set(std::vector<WorkerRecord>{first});
  EXPECT_TRUE(Eventually([&] { return registry_->Workers().size() == 1; }));
  EXPECT_TRUE(Has(prefill.address(), WorkerState::kServing));
}

TEST_F(RegistryTest, ALostWorkersNameIsResolvedAtOnce) {
  FakeDecode a;
  FakeDecode b;
  SetAddresses({a.address()});
  WorkerRegistryOptions options;
  options.decode = {"decode.test:7201"};
  options.resolver = Resolver("decode.test:7201");
  options.link.first_pause = std::chrono::milliseconds(5);
  // Longer than a test may take.
  options.resolve_interval = std::chrono::hours(1);
  options.shortest_resolve_interval = std::chrono::milliseconds(1);
  registry_ = std::make_unique<WorkerRegistry>(std::move(options));
  registry_->Start();
  ASSERT_TRUE(Has(a.address(), WorkerState::kServing));
  SetAddresses({b.address()});
  a.Die();
  EXPECT_TRUE(Has(b.address(), WorkerState::kServing));
}

// Counts who fetches what.
TEST(TokenizerCacheTest, FetchesOncePerHash) {
  TokenizerCache cache;
  const std::string bytes = TestTokenizerBytes();
  const std::string hash = TokenizerHash(bytes);
  std::atomic<int> fetches = 0;
  const auto fetch = [&]() -> absl::StatusOr<std::string> {
    ++fetches;
    return bytes;
  };
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::set<const Tokenizer*> seen;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const auto tokenizer = cache.Get(hash, fetch);
      ASSERT_TRUE(tokenizer.ok());
      std::lock_guard<std::mutex> lock(mutex);
      seen.insert(tokenizer->get());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fetches, 1);
  EXPECT_EQ(seen.size(), 1u);
}

TEST(TokenizerCacheTest, ChecksTheHashAndForgetsFailures) {
  TokenizerCache cache;
  const std::string bytes = TestTokenizerBytes();
  const std::string hash = TokenizerHash(bytes);
  EXPECT_TRUE(absl::IsInvalidArgument(cache.Get(hash, [] { return std::string("else"); }).status()));
  EXPECT_TRUE(absl::IsUnavailable(
      cache.Get(hash, []() -> absl::StatusOr<std::string> { return absl::UnavailableError("gone"); }).status()));
  EXPECT_TRUE(cache.Get(hash, [&] { return bytes; }).ok());
  const std::string junk = "not a tokenizer";
  EXPECT_FALSE(cache.Get(TokenizerHash(junk), [&] { return junk; }).ok());
}

TEST(ResolveTargetTest, NumericAndBad) {
  EXPECT_THAT(*ResolveTarget("127.0.0.1:80"), ElementsAre("127.0.0.1:80"));
  EXPECT_THAT(*ResolveTarget("[::1]:80"), ElementsAre("[::1]:80"));
  EXPECT_THAT(*ResolveTarget("localhost:80"), ElementsAre("127.0.0.1:80"));
  EXPECT_FALSE(ResolveTarget("no-such-host.invalid:80").ok());
  EXPECT_FALSE(ResolveTarget("nothing").ok());
  EXPECT_FALSE(ResolveTarget("srv:_grpc._tcp.no-such-name.invalid").ok());
}

TEST(ResolveTargetTest, WhatATargetMayBe) {
  EXPECT_EQ(TargetProblem("decode.example:7201"), "");
  EXPECT_EQ(TargetProblem("srv:_grpc._tcp.decode.example"), "");
  EXPECT_THAT(TargetProblem("srv:"), HasSubstr("srv:NAME"));
  EXPECT_THAT(TargetProblem("srv:decode.example:7201"), HasSubstr("srv:NAME"));
  EXPECT_THAT(TargetProblem("decode.example"), HasSubstr("HOST:PORT"));
}

}  // namespace
}  // namespace baton
