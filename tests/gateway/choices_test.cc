// Requests with several choices: one prompt, one reservation, an end for each choice.
#include "gateway/choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "common/sampling/sample_seed.h"
#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ChoicesTest : public PairTest {
 protected:
  static v1::GenerateRequest RequestOf(int n, int max_new_tokens = 8) {
    v1::GenerateRequest request = SimpleRequest(max_new_tokens);
    request.set_n(n);
    request.mutable_sampling()->set_seed(42);
    return request;
  }

  // First tokens of all samples, each with log probability -0.5.
  static worker::v1::PrefillEvent FirstOf(const std::vector<int32_t>& ids) {
    worker::v1::PrefillEvent event;
    for (size_t i = 0; i < ids.size(); ++i) {
      worker::v1::FirstToken* first = event.mutable_first_token();
      if (i > 0) first = first->add_further();
      first->set_id(ids[i]);
      first->mutable_logprobs()->set_logprob(-0.5f);
    }
    return event;
  }
  static worker::v1::FirstToken* Sample(worker::v1::PrefillEvent& event, int sample) {
    worker::v1::FirstToken* first = event.mutable_first_token();
    return sample == 0 ? first : first->mutable_further(sample - 1);
  }
  // Adds a sample's tokens, each with log probability -1.
  static void AddTokens(worker::v1::DecodeEvent& event, int sample, int64_t position, const std::vector<int32_t>& ids) {
    worker::v1::TokenChunk* chunk = event.mutable_progress()->add_tokens();
    chunk->set_sample(sample);
    chunk->set_position(position);
    for (const int32_t id : ids) {
      chunk->add_ids(id);
      chunk->add_logprobs()->set_logprob(-1.0f);
    }
  }
  static void AddDone(worker::v1::DecodeEvent& event, int sample, worker::v1::DoneReason reason) {
    worker::v1::SampleDone* done = event.mutable_progress()->add_done();
    done->set_sample(sample);
    done->set_reason(reason);
  }

  // All that a stream said, by choice.
  struct Told {
    std::map<int, std::vector<int32_t>> ids;
    std::map<int, std::string> text;
    std::vector<v1::ChoiceFinished> ends;
    v1::Finished finished;
    absl::Status status;
  };
  static Told ReadAll(ClientStream& client) {
    Told told;
    while (const auto event = client.Next()) {
      EXPECT_FALSE(told.finished.has_usage()) << "nothing follows finished";
      if (event->has_choice_finished()) told.ends.push_back(event->choice_finished());
      if (event->has_finished()) told.finished = event->finished();
      if (!event->has_delta()) continue;
      const v1::Delta& delta = event->delta();
      for (const auto& end : told.ends) EXPECT_NE(end.choice(), delta.choice()) << "a delta after the choice's end";
      told.text[delta.choice()] += delta.text();
      for (const int32_t id : delta.token_ids()) told.ids[delta.choice()].push_back(id);
    }
    told.status = FromGrpcStatus(client.reader->Finish());
    return told;
  }

  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::FromModel(TestTokenizerBytes()).value();
};

TEST_F(ChoicesTest, EachHasItsSeedItsTokensAndItsEnd) {
  Running running;
  running.client = Stream(RequestOf(3));
  running.decode = decode_.Take();
  ASSERT_NE(running.decode, nullptr);
  running.decode->Push(Reserve(decode_, 1));
  running.prefill = prefill_.Take();
  ASSERT_NE(running.prefill, nullptr);
  for (const auto& sampling : {running.decode->request.sampling(), running.prefill->request.sampling()}) {
    EXPECT_EQ(sampling.seed(), 42u);
    EXPECT_THAT(sampling.further_seeds(), ElementsAre(SampleSeed(42, 1), SampleSeed(42, 2)));
  }
  EXPECT_TRUE(running.prefill->request.logprobs()) << "cumulative log probabilities need them";
  const auto started = running.client->Next();
  ASSERT_TRUE(started.has_value());
  EXPECT_EQ(started->started().seed(), 42u);
  EXPECT_THAT(started->started().seeds(), ElementsAre(42u, SampleSeed(42, 1), SampleSeed(42, 2)));

  worker::v1::PrefillEvent first = FirstOf({400, 5, 402});
  Sample(first, 1)->set_done(worker::v1::STOP_TOKEN);
  running.prefill->Push(first);
  worker::v1::DecodeEvent step;
  AddTokens(step, 2, 5, {300});
  AddTokens(step, 0, 5, {301, 302});
  AddDone(step, 2, worker::v1::LENGTH);
  running.decode->Push(step);
  worker::v1::DecodeEvent last;
  AddTokens(last, 0, 7, {1});
  AddDone(last, 0, worker::v1::STOP_TOKEN);
  running.decode->Push(last);

  const Told told = ReadAll(*running.client);
  ASSERT_TRUE(told.status.ok()) << told.status;
  EXPECT_THAT(told.ids.at(0), ElementsAre(400, 301, 302));
  EXPECT_EQ(told.ids.count(1), 0u);
  EXPECT_THAT(told.ids.at(2), ElementsAre(402, 300));
  ASSERT_EQ(told.ends.size(), 3u);
  EXPECT_EQ(told.ends[0].choice(), 1);
  EXPECT_EQ(told.ends[1].choice(), 2);
  EXPECT_EQ(told.ends[2].choice(), 0);
  ASSERT_EQ(told.finished.choices_size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(told.finished.choices(i).choice(), i);
    EXPECT_EQ(told.finished.choices(i).seed(), SampleSeed(42, i));
  }
  EXPECT_EQ(told.finished.choices(0).match().eos_token_id(), 1);
  EXPECT_EQ(told.finished.choices(1).match().eos_token_id(), 5);
  EXPECT_EQ(told.finished.choices(2).reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(told.finished.choices(0).cumulative_logprob(), -3.5);
  EXPECT_EQ(told.finished.choices(1).cumulative_logprob(), -0.5);
  EXPECT_EQ(told.finished.choices(2).usage().completion_tokens(), 2);
  EXPECT_EQ(told.finished.choices(2).usage().prompt_tokens(), 4);
  EXPECT_EQ(told.finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(told.finished.usage().prompt_tokens(), 4);
  EXPECT_EQ(told.finished.usage().completion_tokens(), 7);
  EXPECT_EQ(told.finished.usage().total_tokens(), 11);
  EXPECT_TRUE(decode_.ends().empty()) << "the worker knew of all ends";
}

TEST_F(ChoicesTest, WithoutNNothingIsSaidOfChoices) {
  Running running = Begin(SimpleRequest(2));
  EXPECT_FALSE(running.prefill->request.logprobs());
  EXPECT_TRUE(running.decode->request.sampling().further_seeds().empty());
  running.prefill->Push(First(400));
  running.decode->Push(Tokens(5, {401}));
  running.decode->Push(DecodeDone(worker::v1::LENGTH));
  const Told told = ReadAll(*running.client);
  ASSERT_TRUE(told.status.ok()) << told.status;
  EXPECT_TRUE(told.ends.empty());
  EXPECT_TRUE(told.finished.choices().empty());
  EXPECT_THAT(told.ids.at(0), ElementsAre(400, 401));
}

TEST_F(ChoicesTest, AnEarlierStopStringEndsOneSampleAtItsWorker) {
  v1::GenerateRequest request = RequestOf(2, 6);
  request.mutable_stopping()->add_stop(tokenizer_->TokenBytes(301));
  Running running = Begin(request);
  running.prefill->Push(FirstOf({400, 401}));
  worker::v1::DecodeEvent step;
  AddTokens(step, 0, 5, {300});
  AddTokens(step, 1, 5, {301});
  running.decode->Push(step);
  ASSERT_TRUE(Eventually([&] { return decode_.ends().size() == 1; }));
  const worker::v1::EndSamplesRequest end = decode_.ends()[0];
  EXPECT_THAT(end.samples(), ElementsAre(1));
  EXPECT_EQ(end.reservation_id(), 1u);
  EXPECT_EQ(end.generation(), 101u);
  EXPECT_EQ(end.boot_id(), decode_.info().boot_id());
  // What was on its way is passed over, the end included.
  worker::v1::DecodeEvent late;
  AddTokens(late, 1, 6, {302});
  AddTokens(late, 0, 6, {303});
  AddDone(late, 1, worker::v1::LENGTH);
  AddDone(late, 0, worker::v1::LENGTH);
  running.decode->Push(late);
  const Told told = ReadAll(*running.client);
  ASSERT_TRUE(told.status.ok()) << told.status;
  EXPECT_THAT(told.ids.at(0), ElementsAre(400, 300, 303));
  EXPECT_THAT(told.ids.at(1), ElementsAre(401, 301));
  EXPECT_EQ(told.text.at(1), tokenizer_->TokenBytes(401));
  EXPECT_EQ(told.finished.choices(1).match().stop_string(), tokenizer_->TokenBytes(301));
  EXPECT_EQ(told.finished.choices(1).cumulative_logprob(), -1.5);
  EXPECT_EQ(told.finished.choices(0).reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(ChoicesTest, AStopStringInAFirstTokenEndsItsSampleToo) {
  v1::GenerateRequest request = RequestOf(2, 6);
  request.mutable_stopping()->add_stop(tokenizer_->TokenBytes(301));
  Running running = Begin(request);
  running.prefill->Push(FirstOf({301, 400}));
  ASSERT_TRUE(Eventually([&] { return decode_.ends().size() == 1; }));
  EXPECT_THAT(decode_.ends()[0].samples(), ElementsAre(0));
  worker::v1::DecodeEvent step;
  AddTokens(step, 1, 5, {1});
  AddDone(step, 1, worker::v1::STOP_TOKEN);
  running.decode->Push(step);
  const Told told = ReadAll(*running.client);
  ASSERT_TRUE(told.status.ok()) << told.status;
  EXPECT_EQ(told.finished.choices(0).match().stop_string(), tokenizer_->TokenBytes(301));
  EXPECT_EQ(told.finished.choices(1).match().eos_token_id(), 1);
}

TEST_F(ChoicesTest, EnoughFinishedCutsOffTheRest) {
  v1::GenerateRequest request = RequestOf(3);
  request.set_stop_after(2);
  // Held back as long as it may become the stop string.
  const std::string held = tokenizer_->TokenBytes(300);
  request.mutable_stopping()->add_stop(held + "never");
  Running running = Begin(request);
  running.prefill->Push(FirstOf({400, 401, 402}));
  worker::v1::DecodeEvent step;
  AddTokens(step, 0, 5, {1});
  AddTokens(step, 1, 5, {300});
  AddDone(step, 0, worker::v1::STOP_TOKEN);
  running.decode->Push(step);
  worker::v1::DecodeEvent more;
  AddTokens(more, 2, 5, {5});
  AddDone(more, 2, worker::v1::STOP_TOKEN);
  running.decode->Push(more);
  const Told told = ReadAll(*running.client);
  ASSERT_TRUE(told.status.ok()) << told.status;
  ASSERT_EQ(told.finished.choices_size(), 3);
  EXPECT_EQ(told.finished.choices(0).reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(told.finished.choices(1).reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_EQ(told.finished.choices(1).usage().completion_tokens(), 2);
  EXPECT_EQ(told.finished.choices(2).reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(told.text.at(1), tokenizer_->TokenBytes(401) + held) << "what was held back is delivered";
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.decode->cancelled());
}

TEST_F(ChoicesTest, DroppingTheStreamEndsAll) {
  Running running = Begin(RequestOf(4));
  running.prefill->Push(FirstOf({400, 401, 402, 403}));
  EXPECT_TRUE(running.client->Next().has_value());
  running.client->context.TryCancel();
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
}

TEST_F(ChoicesTest, TheTimeLimitEndsWhatIsLeft) {
  v1::GenerateRequest request = RequestOf(2);
  request.mutable_stopping()->set_time_limit_seconds(0.3f);
  Running running = Begin(request);
  worker::v1::PrefillEvent first = FirstOf({5, 401});
  Sample(first, 0)->set_done(worker::v1::STOP_TOKEN);
  running.prefill->Push(first);
  const Told told = ReadAll(*running.client);
  ASSERT_TRUE(told.status.ok()) << told.status;
  EXPECT_EQ(told.finished.choices(0).reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(told.finished.choices(1).reason(), v1::FINISH_REASON_TIME_LIMIT);
}

TEST_F(ChoicesTest, UnaryAnswersHoldAllChoices) {
  decode_.SetScript([this](const std::shared_ptr<FakeDecode::Call>& call) {
    call->Push(Reserve(decode_, 1));
    worker::v1::DecodeEvent step;
    AddTokens(step, 0, 5, {300});
    AddTokens(step, 1, 5, {301});
    AddDone(step, 0, worker::v1::LENGTH);
    AddDone(step, 1, worker::v1::LENGTH);
    call->Push(step);
    call->Finish();
  });
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>& call) {
    call->Push(FirstOf({400, 401}));
    call->Push(PrefillDone());
    call->Finish();
  });
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, RequestOf(2, 2), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response.token_ids(), ElementsAre(400, 300));
  ASSERT_EQ(response.choices_size(), 2);
  EXPECT_THAT(response.choices(0).token_ids(), ElementsAre(400, 300));
  EXPECT_THAT(response.choices(1).token_ids(), ElementsAre(401, 301));
  EXPECT_EQ(response.choices(0).text(), response.text());
  EXPECT_EQ(response.choices(1).finished().seed(), SampleSeed(42, 1));
  EXPECT_EQ(response.choices(1).finished().cumulative_logprob(), -1.5);
  EXPECT_TRUE(response.finished().choices().empty());
}

class ImpatientChoicesTest : public ChoicesTest {
 protected:
  ImpatientChoicesTest() {
    options_.resume_timeout = Clock::duration::zero();
    options_.stall_timeout = std::chrono::milliseconds(100);
  }
};

TEST_F(ImpatientChoicesTest, AFailureAfterFirstTokensEndsTheRequestAsForOne) {
  Running running = Begin(RequestOf(2));
  running.prefill->Push(FirstOf({400, 401}));
  ASSERT_TRUE(running.client->Next().has_value());
  running.decode->Finish(Unavailable());
  const Told told = ReadAll(*running.client);
  EXPECT_EQ(told.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(told.status.message()), HasSubstr("after 2 tokens"));
}

TEST_F(ChoicesTest, BrokenContractsAreInternalErrors) {
  using Break = std::function<void(Running&)>;
  const std::vector<Break> breaches = {
      [](Running& r) { r.prefill->Push(FirstOf({400})); },
      [](Running& r) {
        r.prefill->Push(FirstOf({400, 401, 402}));
      },
      [](Running& r) { r.prefill->Push(First(400)); },
      [](Running& r) {
        r.prefill->Push(FirstOf({400, 401}));
        worker::v1::DecodeEvent event;
        AddTokens(event, 2, 5, {300});
        r.decode->Push(event);
      },
      [](Running& r) {
        r.prefill->Push(FirstOf({400, 401}));
        worker::v1::DecodeEvent event;
        AddTokens(event, 1, 6, {300});
        r.decode->Push(event);
      },
      [](Running& r) {
        r.prefill->Push(FirstOf({400, 401}));
        worker::v1::DecodeEvent event;
        AddDone(event, -1, worker::v1::LENGTH);
        r.decode->Push(event);
      },
      [](Running& r) {
        r.prefill->Push(FirstOf({400, 401}));
        worker::v1::DecodeEvent event;
        AddTokens(event, 1, 5, {1});
        AddDone(event, 1, worker::v1::STOP_TOKEN);
        AddDone(event, 1, worker::v1::STOP_TOKEN);
        r.decode->Push(event);
      },
      [](Running& r) {
        r.prefill->Push(FirstOf({400, 401}));
        worker::v1::DecodeEvent event;
        event.mutable_progress();
        r.decode->Push(event);
      },
      // Ended, but not for all.
      [](Running& r) {
        worker::v1::DecodeEvent event;
        AddTokens(event, 1, 5, {1});
        AddDone(event, 1, worker::v1::STOP_TOKEN);
        r.decode->Push(event);
        r.decode->Finish();
        r.prefill->Push(FirstOf({400, 401}));
      },
  };
  for (size_t i = 0; i < breaches.size(); ++i) {
    Running running = Begin(RequestOf(2));
    breaches[i](running);
    EXPECT_EQ(ReadAll(*running.client).status.code(), absl::StatusCode::kInternal) << "breach " << i;
    EXPECT_TRUE(running.prefill->WaitUntilOver());
  }
}

}  // namespace
}  // namespace baton
