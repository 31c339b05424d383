// The other methods of the public API, request names, and what is counted.
#include "gateway/inference_service.h"

#include <atomic>
#include <chrono>
#include <future>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ServiceTest : public PairTest {
 protected:
  // Scores every token -0.5 but the first continuation token 9, which is not greedy.
  static void ScoreAll(const std::shared_ptr<FakePrefill::Call>& call) {
    const worker::v1::PrefillRequest& request = call->request;
    EXPECT_TRUE(request.score_only());
    EXPECT_FALSE(request.has_handoff());
    for (int i = request.score_from(); i < request.tokens_size(); ++i) {
      const int32_t id = request.tokens(i);
      call->Push(Scores(i, {id}, -0.5f, id != 9));
    }
    call->Push(PrefillDone());
    call->Finish();
  }

  grpc::Status Score(const v1::ScoreRequest& request, v1::ScoreResponse* response) {
    grpc::ClientContext context;
    return stub_->Score(&context, request, response);
  }
  static v1::ScoreRequest ThreeContinuations() {
    v1::ScoreRequest request;
    for (int32_t id : {2, 7, 8}) request.mutable_tokens()->add_ids(id);
    for (int32_t id : {10, 9, 11}) {
      auto* tokens = request.add_continuations()->mutable_tokens();
      tokens->add_ids(id);
      tokens->add_ids(12);
    }
    return request;
  }
};

TEST_F(ServiceTest, ScoresInOrder) {
  prefill_.SetScript(ScoreAll);
  v1::ScoreResponse response;
  const grpc::Status status = Score(ThreeContinuations(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.scores_size(), 3);
  EXPECT_DOUBLE_EQ(response.scores(0).logprob(), -1.0);
  EXPECT_TRUE(response.scores(0).is_greedy());
  EXPECT_FALSE(response.scores(1).is_greedy());
  EXPECT_EQ(response.scores(1).tokens(0).id(), 9);
  EXPECT_EQ(response.scores(2).tokens(0).id(), 11);
  EXPECT_FALSE(response.scores(2).tokens(1).piece().empty());
  EXPECT_EQ(response.model(), "tiny");
  EXPECT_EQ(response.usage().prompt_tokens(), 3);
  EXPECT_EQ(response.usage().completion_tokens(), 6);
  EXPECT_EQ(decode_.untaken(), 0u);
}

TEST_F(ServiceTest, WhatWasCachedForAllContinuationsIsCounted) {
  // The one that begins with 9 found less of the context.
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>& call) {
    const worker::v1::PrefillRequest& request = call->request;
    for (int i = request.score_from(); i < request.tokens_size(); ++i) call->Push(Scores(i, {request.tokens(i)}));
    worker::v1::PrefillEvent done = PrefillDone();
    done.mutable_done()->set_cached_tokens(request.tokens(3) == 9 ? 1 : 2);
    call->Push(done);
    call->Finish();
  });
  v1::ScoreResponse response;
  ASSERT_TRUE(Score(ThreeContinuations(), &response).ok());
  EXPECT_EQ(response.usage().cached_prompt_tokens(), 1);
  EXPECT_EQ(response.usage().prompt_tokens(), 3);
}

TEST_F(ServiceTest, ScoringRunsAFewAtATime) {
  v1::ScoreRequest request;
  request.mutable_tokens()->add_ids(2);
  for (int i = 0; i < 20; ++i) request.add_continuations()->mutable_tokens()->add_ids(100 + i);
  v1::ScoreResponse response;
  grpc::Status status;
  std::thread caller([&] { status = Score(request, &response); });
  std::vector<std::shared_ptr<FakePrefill::Call>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(prefill_.Take());
    ASSERT_NE(calls.back(), nullptr);
  }
  EXPECT_EQ(prefill_.untaken(), 0u);
  for (int i = 0; i < 20; ++i) {
    ScoreAll(calls[static_cast<size_t>(i)]);
    if (calls.size() < 20) {
      calls.push_back(prefill_.Take());
      ASSERT_NE(calls.back(), nullptr);
    }
  }
  caller.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.scores_size(), 20);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(response.scores(i).tokens(0).id(), 100 + i);
}

TEST_F(ServiceTest, ScoringIsRetriedAndBounded) {
  std::atomic<int> calls = 0;
  prefill_.SetScript([&](const std::shared_ptr<FakePrefill::Call>& call) {
    if (++calls == 2) {
      call->Finish(Unavailable());
    } else {
      ScoreAll(call);
    }
  });
  v1::ScoreResponse response;
  EXPECT_TRUE(Score(ThreeContinuations(), &response).ok());
  EXPECT_EQ(response.scores_size(), 3);
  EXPECT_EQ(calls, 4);

  prefill_.SetScript([&](const std::shared_ptr<FakePrefill::Call>& call) { call->Finish(Unavailable()); });
  EXPECT_EQ(Score(ThreeContinuations(), &response).error_code(), grpc::StatusCode::UNAVAILABLE);
}

class ImpatientServiceTest : public ServiceTest {
 protected:
  void SetUp() override {
    options_.stall_timeout = std::chrono::milliseconds(100);
    ServiceTest::SetUp();
  }
};

TEST_F(ImpatientServiceTest, AScoreWhoseWorkerGetsNowhereIsComputedAnew) {
  std::atomic<int> calls = 0;
  std::promise<std::shared_ptr<FakePrefill::Call>> hung;
  prefill_.SetScript([&](const std::shared_ptr<FakePrefill::Call>& call) {
    if (++calls == 2) {
      hung.set_value(call);
    } else {
      ScoreAll(call);
    }
  });
  v1::ScoreResponse response;
  const grpc::Status status = Score(ThreeContinuations(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.scores_size(), 3);
  EXPECT_EQ(calls, 4);
  EXPECT_TRUE(hung.get_future().get()->WaitUntilOver());
}

TEST_F(ServiceTest, BrokenScoresAreInternal) {
  const std::vector<std::function<void(FakePrefill::Call&)>> breaches = {
      [](auto& call) { call.Finish(); },
      [](auto& call) { call.Push(First(5)); },
      [](auto& call) { call.Push(Scores(2, {10})); },
      [](auto& call) { call.Push(Scores(3, {99})); },
      [](auto& call) {
        call.Push(Scores(3, {10, 12, 13}));
      },
  };
  for (size_t i = 0; i < breaches.size(); ++i) {
    prefill_.SetScript([&](const std::shared_ptr<FakePrefill::Call>& call) {
      breaches[i](*call);
      call->Finish();
    });
    v1::ScoreRequest request = ThreeContinuations();
    request.mutable_continuations()->DeleteSubrange(1, 2);
    v1::ScoreResponse response;
    EXPECT_EQ(Score(request, &response).error_code(), grpc::StatusCode::INTERNAL) << i;
  }
}

TEST_F(ServiceTest, CancellingAScoreCancelsItsCalls) {
  grpc::ClientContext context;
  v1::ScoreResponse response;
  grpc::Status status;
  std::thread caller([&] { status = stub_->Score(&context, ThreeContinuations(), &response); });
  std::vector<std::shared_ptr<FakePrefill::Call>> calls;
  for (int i = 0; i < 3; ++i) {
    calls.push_back(prefill_.Take());
    ASSERT_NE(calls.back(), nullptr);
  }
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  for (const auto& call : calls) EXPECT_TRUE(call->WaitUntilOver());
  EXPECT_TRUE(Eventually([&] { return Status().running_requests() == 0; }));
}

TEST_F(ServiceTest, TokenizesBothWays) {
  v1::TokenizeRequest request;
  request.mutable_text()->set_text("Hello there");
  v1::TokenizeResponse ids;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, request, &ids).ok());
  EXPECT_EQ(ids.ids(0), 2);
  v1::DetokenizeRequest back;
  *back.mutable_ids() = ids.ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, back, &text).ok());
  EXPECT_EQ(text.text(), "Hello there");
}

TEST_F(ServiceTest, LargeTextsAreTokenizedAside) {
  v1::TokenizeRequest request;
  for (size_t i = 0; i < TextLane::kSmallBytes / 4; ++i) request.mutable_text()->mutable_text()->append("word ");
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Tokenize(&context, request, &response).ok());
  EXPECT_GT(response.ids_size(), 10000);

  v1::GenerateRequest too_long;
  for (size_t i = 0; i < TextLane::kSmallBytes; ++i) too_long.mutable_tokens()->add_ids(100);
  const absl::Status status = Stream(too_long)->Finish();
  EXPECT_EQ(ErrorReason(status), "PROMPT_TOO_LONG") << status;

  // As long as the context allows, and generated from.
  v1::GenerateRequest long_one = SimpleRequest(1);
  long_one.set_request_id("long");
  for (int i = 0; i < 1024; ++i) (*long_one.mutable_sampling()->mutable_logit_bias())[i] = 1;
  for (int i = 0; i < 4000; ++i) long_one.mutable_tokens()->add_ids(100);
  for (int i = 0; i < 2048; ++i) long_one.mutable_sampling()->add_allowed_token_ids(i % 2048);
  for (int i = 0; i < 16; ++i) long_one.mutable_stopping()->add_stop(std::string(256, 'x'));
  auto client = Stream(long_one);
  auto prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);
  EXPECT_EQ(prefill->request.tokens_size(), 4004);
  prefill->Push(FirstAndLast(200, worker::v1::LENGTH));
  prefill->Push(PrefillDone());
  prefill->Finish();
  EXPECT_TRUE(client->Finish().ok());
}

TEST_F(ServiceTest, ListsModels) {
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  ASSERT_TRUE(stub_->ListModels(&context, {}, &response).ok());
  ASSERT_EQ(response.models_size(), 1);
  const v1::ModelCard& card = response.models(0);
  EXPECT_EQ(card.name(), "tiny");
  EXPECT_EQ(card.family(), "gemma2");
  EXPECT_EQ(card.fingerprint().substr(0, 4), "6666");
  EXPECT_EQ(card.max_tokens(), 8192);
  EXPECT_TRUE(card.ready());
  EXPECT_EQ(card.prefill_workers(), 1);
  EXPECT_EQ(card.decode_workers(), 1);
  EXPECT_THAT(card.eos_token_ids(), ElementsAre(1, 5));
  EXPECT_EQ(card.defaults().temperature(), 0);
  EXPECT_EQ(card.defaults().max_new_tokens(), 256);
}

TEST_F(ServiceTest, ShowsTheFleet) {
  prefill_.load().SetQueuedTokens(5);
  const auto reservation = decode_.budget().Reserve(4096);
  ASSERT_TRUE(reservation.ok());
  ASSERT_TRUE(Eventually([&] { return Status().workers(1).state_bytes_used() == 4096; }));
  ASSERT_TRUE(Eventually([&] { return Status().workers(0).queued_tokens() == 5; }));
  const v1::GetStatusResponse status = Status();
  EXPECT_EQ(status.workers(0).role(), "prefill");
  EXPECT_EQ(status.workers(0).endpoint(), prefill_.address());
  EXPECT_EQ(status.workers(1).role(), "decode");
  EXPECT_EQ(status.workers(1).boot_id(), decode_.info().boot_id());
  EXPECT_EQ(status.workers(1).model(), "tiny");
  EXPECT_FALSE(status.gateway_version().empty());
  EXPECT_EQ(status.running_requests_limit(), options_.admission.max_running);
  EXPECT_EQ(status.queued_requests_limit(), options_.admission.max_queue);
  EXPECT_EQ(status.queued_tokens_limit(), options_.admission.max_queue_tokens);
  ASSERT_EQ(status.models_size(), 1);
  EXPECT_EQ(status.models(0).model(), "tiny");
  for (const v1::WorkerStatus& worker : status.workers()) {
    EXPECT_TRUE(worker.has_silent_seconds());
    EXPECT_FALSE(worker.paused());
    EXPECT_EQ(worker.problem(), "");
  }
}

TEST_F(ServiceTest, TellsWhatItDidLately) {
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>& call) {
    call->Push(FirstAndLast(200, worker::v1::LENGTH));
    call->Push(PrefillDone());
    call->Finish();
  });
  EXPECT_TRUE(Stream(SimpleRequest(1))->Finish().ok());
  v1::GenerateRequest unknown = SimpleRequest();
  unknown.set_model("nobody's");
  EXPECT_FALSE(Stream(unknown)->Finish().ok());
  const v1::GetStatusResponse status = Status();
  for (const v1::Activity* activity : {&status.recent(), &status.since_start()}) {
    EXPECT_GT(activity->seconds(), 0);
    EXPECT_EQ(activity->completed(), 1);
    EXPECT_EQ(activity->rejected(), 1);
    EXPECT_EQ(activity->prompt_tokens(), kPromptTokens);
    EXPECT_EQ(activity->output_tokens(), 1);
    EXPECT_EQ(activity->time_to_first_token().count(), 1);
    EXPECT_GT(activity->time_to_first_token().p99_seconds(), 0);
  }
  EXPECT_EQ(status.models(0).recent().completed(), 1);
  EXPECT_EQ(status.models(0).recent().rejected(), 0);
}

TEST_F(ServiceTest, TheWindowIsChecked) {
  const auto ask = [&](double window) {
    grpc::ClientContext context;
    v1::GetStatusRequest request;
    request.set_window_seconds(window);
    v1::GetStatusResponse response;
    return fleet_->GetStatus(&context, request, &response);
  };
  EXPECT_TRUE(ask(1).ok());
  EXPECT_TRUE(ask(60).ok());
  for (const double window : {0.0, 0.5, -1.0, 60.5, 1e300, std::numeric_limits<double>::quiet_NaN()}) {
    const grpc::Status refused = ask(window);
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << window;
    EXPECT_THAT(refused.error_message(), HasSubstr("window_seconds"));
  }
}

TEST_F(ServiceTest, UnknownModelsAreNotFound) {
  v1::GenerateRequest request = SimpleRequest();
  request.set_model("nobody's");
  const absl::Status status = Stream(request)->Finish();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_EQ(ErrorReason(status), "MODEL_NOT_FOUND");
}

TEST_F(ServiceTest, RequestIdsComeFromFieldOrMetadataOrTheGateway) {
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>& call) {
    call->Push(FirstAndLast(200, worker::v1::LENGTH));
    call->Push(PrefillDone());
    call->Finish();
  });
  const auto ask = [&](const std::string& field, const std::string& metadata) {
    grpc::ClientContext context;
    if (!metadata.empty()) context.AddMetadata("x-request-id", metadata);
    v1::GenerateRequest request = SimpleRequest(1);
    request.set_request_id(field);
    v1::GenerateResponse response;
    const grpc::Status status = stub_->Generate(&context, request, &response);
    const auto& initial = context.GetServerInitialMetadata();
    const auto echoed = initial.find("x-request-id");
    EXPECT_NE(echoed, initial.end());
    if (status.ok() && echoed != initial.end()) {
      EXPECT_EQ(response.request_id(), std::string(echoed->second.data(), echoed->second.size()));
    }
    return status.ok() ? response.request_id() : "error: " + status.error_message();
  };
  EXPECT_EQ(ask("mine", "other"), "mine");
  EXPECT_EQ(ask("", "other"), "other");
  EXPECT_THAT(ask("", ""), HasSubstr("req-"));
  EXPECT_THAT(ask(std::string(129, 'x'), ""), HasSubstr("error: request_id"));
  EXPECT_THAT(ask("", std::string(129, 'x')), HasSubstr("error: x-request-id"));
}

TEST_F(ServiceTest, BadRequestsReachTheClientWithDetails) {
  v1::GenerateRequest request = SimpleRequest();
  request.mutable_sampling()->set_top_p(3);
  const absl::Status status = Stream(request)->Finish();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.BadRequest").has_value());
  EXPECT_THAT(std::string(status.message()), HasSubstr("sampling.top_p"));
}

}  // namespace
}  // namespace baton
