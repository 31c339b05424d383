// Several samples of one prompt: one reservation, one handoff, one stream, and each sample as if it were alone.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using testing::ElementsAreArray;
using worker::v1::DecodeRequest;

// The request of one sample alone.
DecodeRequest Alone(const DecodeRequest& request, int sample) {
  DecodeRequest alone = request;
  if (sample > 0) alone.mutable_sampling()->set_seed(request.sampling().further_seeds(sample - 1));
  alone.mutable_sampling()->clear_further_seeds();
  return alone;
}

// What a request of several samples must give, and the state to hand over for it. `ended`: samples whose first token
// the commit says to end them; 107 is what they drew then.
struct Samples {
  DecodeRequest request;
  std::vector<Expectation> alone;
  std::vector<std::string> messages;
};
constexpr int32_t kStop = 107;

Samples MakeSamples(const std::string& model, const DecodeRequest& request, const std::vector<int>& ended = {}) {
  Samples out;
  out.request = request;
  const int samples = 1 + request.sampling().further_seeds_size();
  for (int i = 0; i < samples; ++i) out.alone.push_back(RunPlainLoop(model, Alone(request, i)));
  std::vector<FirstTokenRecord> tokens;
  for (int i = 0; i < samples; ++i) {
    const bool ends = std::count(ended.begin(), ended.end(), i) > 0;
    tokens.push_back(MakeFirstTokenRecord(ends ? kStop : out.alone[static_cast<size_t>(i)].first_token));
    tokens.back().ends = ends;
  }
  out.messages = RunPlainLoop(model, Alone(request, 0), tokens).messages;
  return out;
}

DecodeRequest SampledRequest(const std::string& model, int samples, int prompt_tokens, int max_new_tokens) {
  DecodeRequest request = MakeRequest(LoopModel(model), RandomPrompt(prompt_tokens, 11), max_new_tokens);
  request.mutable_sampling()->set_temperature(2);
  request.mutable_sampling()->set_seed(500);
  for (int i = 1; i < samples; ++i) request.mutable_sampling()->add_further_seeds(500 + static_cast<uint64_t>(i));
  return request;
}

class SamplesTest : public testing::TestWithParam<const char*> {};

TEST_P(SamplesTest, EachIsWhatItIsAlone) {
  DecodeWorker worker({.model = GetParam(), .engine = {.max_batch = 3}});
  // Beyond the windows, ends within a page, with penalties that tell their histories apart.
  DecodeRequest request = SampledRequest(GetParam(), 5, 150, 40);
  request.mutable_sampling()->set_repetition_penalty(1.2f);
  request.mutable_sampling()->set_frequency_penalty(0.5f);
  request.set_logprobs(true);
  const Samples samples = MakeSamples(GetParam(), request);
  RunStream run(worker.stub(), request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  EXPECT_EQ(reservation->bytes(), worker.budget().used());
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, samples.messages).ok());
  const RunStream::Result result = run.End();
  ASSERT_TRUE(result.status.ok()) << result.status;
  for (int i = 0; i < 5; ++i) {
    const Expectation& expected = samples.alone[static_cast<size_t>(i)];
    const RunStream::SampleResult& got = result.samples.at(i);
    EXPECT_THAT(got.tokens, ElementsAreArray(expected.tokens)) << "sample " << i;
    EXPECT_EQ(got.reason, expected.reason);
    ASSERT_EQ(got.logprobs.size(), expected.logprobs.size());
    for (size_t t = 0; t < got.logprobs.size(); ++t) {
      EXPECT_EQ(got.logprobs[t].logprob(), expected.logprobs[t].logprob());
    }
  }
  EXPECT_NE(result.samples.at(0).tokens, result.samples.at(1).tokens) << "too alike to show anything";
  ExpectNothingHeld(worker);
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "done"), 5);
}

TEST_P(SamplesTest, AnEndedSampleLeavesItsRoomAndTheOthersGoOn) {
  DecodeWorker worker({.model = GetParam(), .engine = {.step_delay = absl::Milliseconds(2)}});
  const DecodeRequest request = SampledRequest(GetParam(), 3, 40, 400);
  const Samples samples = MakeSamples(GetParam(), request);
  RunStream run(worker.stub(), request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, samples.messages).ok());
  const int64_t all = worker.budget().used();

  worker::v1::EndSamplesRequest end;
  end.set_boot_id(reservation->boot_id());
  end.set_reservation_id(reservation->reservation_id());
  end.set_generation(reservation->generation());
  end.add_samples(1);
  const auto call = [&](const worker::v1::EndSamplesRequest& asked) {
    grpc::ClientContext context;
    worker::v1::EndSamplesResponse response;
    return worker.stub().EndSamples(&context, asked, &response).error_code();
  };
  EXPECT_EQ(call(end), grpc::StatusCode::OK);
  WaitUntil([&] { return worker.budget().used() < all; });
  EXPECT_EQ(call(end), grpc::StatusCode::OK) << "twice is once";

  worker::v1::EndSamplesRequest wrong = end;
  wrong.add_samples(3);
  EXPECT_EQ(call(wrong), grpc::StatusCode::INVALID_ARGUMENT);
  wrong = end;
  wrong.add_samples(-1);
  EXPECT_EQ(call(wrong), grpc::StatusCode::INVALID_ARGUMENT);
  wrong = end;
  wrong.set_generation(end.generation() + 1);
  EXPECT_EQ(call(wrong), grpc::StatusCode::NOT_FOUND);
  wrong = end;
  wrong.set_boot_id("another");
  EXPECT_EQ(call(wrong), grpc::StatusCode::NOT_FOUND);

  const RunStream::Result result = run.End();
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_THAT(result.samples.at(0).tokens, ElementsAreArray(samples.alone[0].tokens));
  EXPECT_THAT(result.samples.at(2).tokens, ElementsAreArray(samples.alone[2].tokens));
  const auto cut = result.samples.find(1);
  if (cut != result.samples.end()) {
    EXPECT_FALSE(cut->second.reason.has_value());
    EXPECT_LT(cut->second.tokens.size(), samples.alone[1].tokens.size());
  }
  ExpectNothingHeld(worker);
  EXPECT_EQ(call(end), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "done"), 2);
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "cancelled"), 1);
}

TEST_P(SamplesTest, SamplesThatEndWithTheirFirstTokenAreNotDecoded) {
  DecodeWorker worker({.model = GetParam()});
  DecodeRequest request = SampledRequest(GetParam(), 3, 30, 10);
  request.mutable_stopping()->add_stop_token_ids(kStop);
  const Samples samples = MakeSamples(GetParam(), request, {0, 2});
  RunStream run(worker.stub(), request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, samples.messages).ok());
  const RunStream::Result result = run.End();
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_THAT(result.samples.at(1).tokens, ElementsAreArray(samples.alone[1].tokens));
  EXPECT_TRUE(result.samples.at(0).tokens.empty());
  EXPECT_EQ(result.samples.count(2), 0u);
  ExpectNothingHeld(worker);
}

INSTANTIATE_TEST_SUITE_P(Models, SamplesTest, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) { return std::string(info.param).substr(5); });

TEST(SamplesFaultTest, CommitsOfOtherSamplesAreRefused) {
  constexpr char kModel[] = "tiny-recurrentgemma";
  DecodeWorker worker({.model = kModel});
  DecodeRequest request = SampledRequest(kModel, 3, 30, 10);
  request.mutable_stopping()->add_stop_token_ids(kStop);
  DecodeRequest fewer = request;
  fewer.mutable_sampling()->mutable_further_seeds()->RemoveLast();
  DecodeRequest without_stop = request;
  without_stop.mutable_stopping()->clear_stop_token_ids();
  struct Case {
    std::string name;
    DecodeRequest asked;
    std::vector<std::string> messages;
  };
  const std::vector<Case> cases = {
      {"too few", request, MakeSamples(kModel, fewer).messages},
      {"too many", fewer, MakeSamples(kModel, request).messages},
      {"all ended", request, MakeSamples(kModel, request, {0, 1, 2}).messages},
      {"an end that is none", without_stop, MakeSamples(kModel, without_stop, {1}).messages},
  };
  for (const Case& test : cases) {
    RunStream run(worker.stub(), test.asked);
    const auto reservation = run.Reserve();
    ASSERT_TRUE(reservation.has_value());
    EXPECT_TRUE(absl::IsInvalidArgument(HandOver(worker.stub(), *reservation, test.messages))) << test.name;
    EXPECT_TRUE(absl::IsDataLoss(run.End().status)) << test.name;
  }
  ExpectNothingHeld(worker);
}

TEST(SamplesFaultTest, CancellingEndsAllSamples) {
  constexpr char kModel[] = "tiny-gemma2";
  DecodeWorker worker({.model = kModel, .engine = {.step_delay = absl::Milliseconds(2)}});
  const DecodeRequest request = SampledRequest(kModel, 8, 40, 1500);
  const Samples samples = MakeSamples(kModel, SampledRequest(kModel, 8, 40, 3));
  RunStream run(worker.stub(), request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, samples.messages).ok());
  ASSERT_TRUE(run.Next().has_value());
  run.Cancel();
  ExpectNothingHeld(worker);
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "cancelled"), 8);
}

TEST(SamplesFaultTest, RoomIsForAllSamplesOrNone) {
  constexpr char kModel[] = "tiny-gemma2";
  const int64_t one = LoopModel(kModel).MakeStateLayout(1)->BytesFor(50);
  DecodeWorker worker({.model = kModel, .memory = 2 * one});
  RunStream run(worker.stub(), SampledRequest(kModel, 64, 40, 10));
  EXPECT_FALSE(run.Reserve().has_value());
  const absl::Status refused = run.End().status;
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << "it never fits";
  EXPECT_EQ(ErrorReason(refused), "PROMPT_TOO_LONG");
  ExpectNothingHeld(worker);
}

}  // namespace
}  // namespace baton
