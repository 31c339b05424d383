// Which of several workers serves: another one after a failure, never a full, draining or different one, and a
// restarted one again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TwoPairsTest : public GatewayTest {
 protected:
  void SetUp() override {
    AddWorker(prefill_);
    AddWorker(decode_a_);
    AddWorker(decode_b_);
    StartGatewayWith(3);
  }
  FakePrefill prefill_;
  FakeDecode decode_a_;
  FakeDecode decode_b_;
};

TEST_F(TwoPairsTest, ARetryGoesToTheOtherWorker) {
  std::atomic<int> failed = 0;
  const auto fail = [&](const std::shared_ptr<FakeDecode::Call>& call) {
    ++failed;
    call->Finish(Unavailable());
  };
  const auto serve = [](FakeDecode* worker, const std::shared_ptr<FakeDecode::Call>& call) {
    call->Push(Reserve(*worker, 1));
    call->Push(Tokens(5, {201}));
    call->Push(DecodeDone(worker::v1::LENGTH));
    call->Finish();
  };
  decode_a_.SetScript(fail);
  decode_b_.SetScript([&](const auto& call) { serve(&decode_b_, call); });
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>& call) {
    call->Push(First(200));
    call->Push(PrefillDone());
    call->Finish();
  });
  for (int i = 0; i < 6; ++i) {
    auto client = Stream(SimpleRequest(2));
    EXPECT_TRUE(client->Finish().ok());
    EXPECT_THAT(client->ids, ElementsAre(200, 201));
  }
  EXPECT_GT(failed, 0);
}

TEST_F(TwoPairsTest, AFullWorkerIsPassedOver) {
  decode_a_.SetScript([](const std::shared_ptr<FakeDecode::Call>& call) {
    call->Finish(
        ToGrpcStatus(WithRetryAfter(absl::ResourceExhaustedError("no room"), absl::Seconds(1), "DECODE_MEMORY_FULL")));
  });
  for (int i = 0; i < 2; ++i) {
    auto client = Stream(SimpleRequest(2));
    auto decode = decode_b_.Take();
    ASSERT_NE(decode, nullptr);
    decode->Push(Reserve(decode_b_, 1));
    auto prefill = prefill_.Take();
    ASSERT_NE(prefill, nullptr);
    client->context.TryCancel();
    EXPECT_TRUE(decode->WaitUntilOver());
  }
}

TEST_F(GatewayTest, ARestartedWorkerIsUsedAgain) {
  FakePrefill prefill;
  auto decode = std::make_unique<FakeDecode>();
  AddWorker(prefill);
  AddWorker(*decode);
  // Nobody else could go on with what is lost.
  options_.resume_timeout = Clock::duration::zero();
  StartGatewayWith(2);
  const std::string address = decode->address();

  auto client = Stream(SimpleRequest());
  auto run = decode->Take();
  ASSERT_NE(run, nullptr);
  run->Push(Reserve(*decode, 1));
  auto compute = prefill.Take();
  ASSERT_NE(compute, nullptr);
  compute->Push(First(200));
  ASSERT_TRUE(client->SkipStarted());
  ASSERT_TRUE(client->Next().has_value());
  decode->Die();
  EXPECT_TRUE(absl::IsUnavailable(client->Finish()));
  EXPECT_TRUE(compute->WaitUntilOver());
  ASSERT_TRUE(Eventually([&] { return Serving() == 1; }));
  const absl::Status gone = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsUnavailable(gone)) << gone;
  EXPECT_EQ(ErrorReason(gone), "NO_WORKERS");
  EXPECT_THAT(std::string(gone.message()), HasSubstr("no serving decode worker"));

  const std::string old_boot = decode->info().boot_id();
  decode = std::make_unique<FakeDecode>('f', int64_t{1} << 30, address);
  ASSERT_NE(decode->info().boot_id(), old_boot);
  ASSERT_TRUE(Eventually([&] { return Serving() == 2; }));
  client = Stream(SimpleRequest(2));
  run = decode->Take();
  ASSERT_NE(run, nullptr);
  run->Push(Reserve(*decode, 1));
  compute = prefill.Take();
  ASSERT_NE(compute, nullptr);
  EXPECT_EQ(compute->request.handoff().boot_id(), decode->info().boot_id());
  compute->Push(First(200));
  run->Push(Tokens(5, {201}));
  run->Push(DecodeDone(worker::v1::LENGTH));
  EXPECT_TRUE(client->Finish().ok());
}

TEST_F(GatewayTest, ADrainingWorkerGetsNothingNew) {
  FakePrefill prefill;
  FakeDecode draining;
  FakeDecode other;
  AddWorker(prefill);
  AddWorker(draining);
  AddWorker(other);
  StartGatewayWith(3);
  draining.load().SetDraining();
  ASSERT_TRUE(Eventually([&] { return Serving() == 2; }));
  for (int i = 0; i < 3; ++i) {
    auto client = Stream(SimpleRequest());
    auto run = other.Take();
    ASSERT_NE(run, nullptr);
    client->context.TryCancel();
  }
  EXPECT_EQ(draining.untaken(), 0u);
}

TEST_F(GatewayTest, OnlyEqualFingerprintsArePaired) {
  // One name, two builds: the pair that matches is served, the odd one is left alone.
  FakePrefill prefill_old('a');
  FakePrefill prefill_new('b');
  FakeDecode decode_new('b');
  AddWorker(prefill_old);
  AddWorker(prefill_new);
  AddWorker(decode_new);
  StartGatewayWith(3);
  for (int i = 0; i < 3; ++i) {
    auto client = Stream(SimpleRequest());
    auto run = decode_new.Take();
    ASSERT_NE(run, nullptr);
    EXPECT_EQ(run->request.fingerprint(), std::string(32, 'b'));
    run->Push(Reserve(decode_new, 1));
    ASSERT_NE(prefill_new.Take(), nullptr);
    client->context.TryCancel();
  }
  EXPECT_EQ(prefill_old.untaken(), 0u);
}

TEST_F(GatewayTest, WaitsForWorkersThatComeLater) {
  // Ports nobody listens on yet.
  std::string prefill_address;
  std::string decode_address;
  {
    FakePrefill prefill;
    FakeDecode decode;
    prefill_address = prefill.address();
    decode_address = decode.address();
  }
  options_.workers.prefill = {prefill_address};
  options_.workers.decode = {decode_address};
  StartGateway();
  const absl::Status early = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsUnavailable(early)) << early;
  EXPECT_EQ(ErrorReason(early), "NO_WORKERS");

  FakePrefill prefill('f', prefill_address);
  FakeDecode decode('f', int64_t{1} << 30, decode_address);
  ASSERT_TRUE(Eventually([&] { return Serving() == 2; }));
  auto client = Stream(SimpleRequest());
  EXPECT_NE(decode.Take(), nullptr);
  client->context.TryCancel();
}

}  // namespace
}  // namespace baton
