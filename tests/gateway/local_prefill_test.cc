// Requests whose prompts decode workers compute, and turns that go on from kept sessions: whom the gateway asks what,
// and what it does when they will not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "common/rpc/worker_request.h"
#include "gateway/session_handle.h"
#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;

worker::v1::WorkerInfo ComputingDecode() {
  worker::v1::WorkerInfo info = TestWorkerInfo(worker::v1::WorkerInfo::DECODE);
  info.set_local_prefill_chunk(16);
  return info;
}

class LocalPrefillTest : public GatewayTest {
 protected:
  void SetUp() override {
    AddWorker(prefill_);
    AddWorker(decode_);
    options_.local_prefill_tokens = 16;
  }

  static v1::GenerateRequest Request(int prompt_tokens, int max_new_tokens = 3) {
    v1::GenerateRequest request;
    for (int i = 0; i < prompt_tokens; ++i) request.mutable_tokens()->add_ids(100 + i);
    request.mutable_stopping()->set_max_new_tokens(max_new_tokens);
    return request;
  }

  // A session of ten tokens, nine of which its state has consumed, as decode_ keeps it.
  std::string KeepSession(bool in_memory) {
    worker::v1::SessionKey key;
    key.set_id(std::string(kSessionIdBytes, 's'));
    key.set_identity(NoIdentity());
    worker::v1::OpenSessionResponse session;
    for (int32_t id = 200; id < 210; ++id) session.add_tokens(id);
    session.set_position(9);
    session.set_endpoint(decode_.address());
    session.set_in_memory(in_memory);
    decode_.SetSession(key, session);
    return MakeSessionHandle(decode_.info().boot_id(), key.id());
  }

  FakePrefill prefill_;
  FakeDecode decode_{ComputingDecode()};
};

TEST_F(LocalPrefillTest, AShortPromptNeedsNoPrefillWorker) {
  StartGatewayWith(2);
  auto client = Stream(Request(16));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  EXPECT_TRUE(decode->request.compute_prompt());
  EXPECT_FALSE(decode->request.has_session());
  EXPECT_EQ(decode->request.tokens_size(), 16);
  decode->Push(Reserve(decode_, 1));
  decode->Push(LocalFirst(300));
  decode->Push(Tokens(17, {301, 302}));
  decode->Push(DecodeDone(worker::v1::LENGTH));
  decode->Finish();
  const absl::Status status = client->Finish();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(client->ids, ElementsAre(300, 301, 302));
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(client->finished->usage().prompt_tokens(), 16);
  EXPECT_EQ(client->finished->usage().cached_prompt_tokens(), 0);
  EXPECT_EQ(prefill_.untaken(), 0u);
}

TEST_F(LocalPrefillTest, AFirstTokenThatEndsEndsTheRequest) {
  StartGatewayWith(2);
  auto client = Stream(Request(4));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 1));
  worker::v1::DecodeEvent first = LocalFirst(5);
  first.mutable_first_token()->set_done(worker::v1::STOP_TOKEN);
  decode->Push(first);
  decode->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(client->finished->match().eos_token_id(), 5);
}

TEST_F(LocalPrefillTest, WhatIsLongOrScoredOrOneTokenGoesToAPrefillWorker) {
  StartGatewayWith(2);
  v1::GenerateRequest scored = Request(4);
  scored.mutable_output()->set_prompt_logprobs(true);
  for (const v1::GenerateRequest& request : {Request(17), scored}) {
    auto client = Stream(request);
    auto decode = decode_.Take();
    ASSERT_NE(decode, nullptr);
    EXPECT_FALSE(decode->request.compute_prompt());
    decode->Push(Reserve(decode_, 1));
    EXPECT_NE(prefill_.Take(), nullptr);
    client->context.TryCancel();
    EXPECT_TRUE(decode->WaitUntilOver());
  }
  auto client = Stream(Request(4, 1));
  EXPECT_NE(prefill_.Take(), nullptr);
  EXPECT_EQ(decode_.untaken(), 0u);
  client->context.TryCancel();
}

TEST_F(LocalPrefillTest, CanBeTurnedOff) {
  options_.local_prefill_tokens = 0;
  StartGatewayWith(2);
  auto client = Stream(Request(2));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  EXPECT_FALSE(decode->request.compute_prompt());
  client->context.TryCancel();
}

TEST_F(LocalPrefillTest, ARefusedPromptGoesToAPrefillWorker) {
  StartGatewayWith(2);
  auto client = Stream(Request(4));
  auto refused = decode_.Take();
  ASSERT_NE(refused, nullptr);
  EXPECT_TRUE(refused->request.compute_prompt());
  refused->Finish(Unavailable("LOCAL_PREFILL_REFUSED"));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  EXPECT_FALSE(decode->request.compute_prompt());
  decode->Push(Reserve(decode_, 2));
  auto prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);
  prefill->Push(First(300));
  prefill->Push(PrefillDone());
  prefill->Finish();
  decode->Push(Tokens(5, {301, 302}));
  decode->Push(DecodeDone(worker::v1::LENGTH));
  decode->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_THAT(client->ids, ElementsAre(300, 301, 302));
}

TEST_F(LocalPrefillTest, AFirstTokenNobodyAskedForIsAnError) {
  StartGatewayWith(2);
  auto client = Stream(Request(17));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 1));
  decode->Push(LocalFirst(300));
  EXPECT_EQ(client->Finish().code(), absl::StatusCode::kInternal);
}

TEST_F(LocalPrefillTest, ATurnGoesOnWhereItsSessionIsInMemory) {
  StartGatewayWith(2);
  v1::GenerateRequest request = Request(15);
  request.set_session(KeepSession(/*in_memory=*/true));
  auto client = Stream(request);
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  EXPECT_TRUE(decode->request.compute_prompt());
  EXPECT_EQ(decode->request.session().id(), std::string(kSessionIdBytes, 's'));
  EXPECT_EQ(decode->request.tokens_size(), 25);
  decode->Push(Reserve(decode_, 1));
  decode->Push(LocalFirst(300, 9));
  decode->Push(Tokens(26, {301, 302}));
  decode->Push(DecodeDone(worker::v1::LENGTH));
  decode->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_THAT(client->ids, ElementsAre(300, 301, 302));
  EXPECT_EQ(client->finished->usage().cached_prompt_tokens(), 9);
  EXPECT_EQ(prefill_.untaken(), 0u);
}

TEST_F(LocalPrefillTest, ASessionInAFileOrALongTurnIsReadByAPrefillWorker) {
  StartGatewayWith(2);
  for (const bool in_memory : {false, true}) {
    // 25 or 26 tokens, 17 of them not consumed.
    v1::GenerateRequest request = Request(in_memory ? 16 : 15);
    request.set_session(KeepSession(in_memory));
    auto client = Stream(request);
    auto decode = decode_.Take();
    ASSERT_NE(decode, nullptr);
    EXPECT_FALSE(decode->request.compute_prompt());
    EXPECT_FALSE(decode->request.has_session());
    decode->Push(Reserve(decode_, 1));
    auto prefill = prefill_.Take();
    ASSERT_NE(prefill, nullptr);
    EXPECT_EQ(prefill->request.session().endpoint(), decode_.address());
    EXPECT_EQ(prefill->request.session().key().id(), std::string(kSessionIdBytes, 's'));
    client->context.TryCancel();
    EXPECT_TRUE(decode->WaitUntilOver());
  }
}

TEST_F(LocalPrefillTest, AnUnknownSessionHasExpired) {
  StartGatewayWith(2);
  v1::GenerateRequest request = Request(4);
  request.set_session(MakeSessionHandle(decode_.info().boot_id(), std::string(kSessionIdBytes, 't')));
  auto client = Stream(request);
  const absl::Status status = client->Finish();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(status), "SESSION_EXPIRED");
}

TEST_F(LocalPrefillTest, ABrokenSessionIsTheWorkersFault) {
  StartGatewayWith(2);
  const std::string handle = KeepSession(true);
  worker::v1::SessionKey key;
  key.set_id(std::string(kSessionIdBytes, 's'));
  key.set_identity(NoIdentity());
  worker::v1::OpenSessionResponse broken;
  broken.add_tokens(200);
  broken.set_position(2);
  decode_.SetSession(key, broken);
  v1::GenerateRequest request = Request(4);
  request.set_session(handle);
  auto client = Stream(request);
  EXPECT_EQ(client->Finish().code(), absl::StatusCode::kInternal);
}

TEST_F(LocalPrefillTest, AKeptTurnSaysHowToGoOn) {
  StartGatewayWith(2);
  v1::GenerateRequest request = Request(4, 2);
  request.set_keep_state(true);
  auto client = Stream(request);
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  EXPECT_TRUE(decode->request.compute_prompt());
  ASSERT_TRUE(decode->request.has_keep());
  worker::v1::DecodeEvent reservation = Reserve(decode_, 1);
  decode->Push(reservation);
  decode->Push(LocalFirst(300));
  decode->Push(Tokens(5, {301}));
  worker::v1::DecodeEvent done = DecodeDone(worker::v1::LENGTH);
  done.mutable_progress()->mutable_done(0)->set_kept_until_ms(absl::ToUnixMillis(absl::Now() + absl::Hours(1)));
  decode->Push(done);
  decode->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_EQ(client->finished->session().handle(),
            MakeSessionHandle(decode_.info().boot_id(), decode->request.keep().id()));
  EXPECT_GT(client->finished->session().expires_in_seconds(), 3000);
}

}  // namespace
}  // namespace baton
