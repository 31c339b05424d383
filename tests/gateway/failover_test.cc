// Requests whose workers are lost on the way: the client's stream goes on elsewhere, without a gap or a repeat, and as
// if nothing had happened.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "common/sampling/sample_seed.h"
#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A pair of workers that know what comes next: the token of each position and seed, whoever is asked, as real workers
// do. A test says where they fail.
class FailoverTest : public GatewayTest {
 protected:
  enum class Point { kReserve, kPrefill, kHandoff, kDecode };

  void SetUp() override {
    AddWorker(prefill_);
    AddWorker(decode_);
    prefill_.SetScript([this](const std::shared_ptr<FakePrefill::Call>& call) { Prefill(call); });
    decode_.SetScript([this](const std::shared_ptr<FakeDecode::Call>& call) { Decode(call); });
    Configure();
    StartGatewayWith(2);
  }
  virtual void Configure() {}

  // A stream of that length ends well, whatever happens to its workers.
  void ExpectEightTokens() {
    auto client = Stream(SimpleRequest(8));
    const absl::Status status = Finish(*client);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(client->ids.size(), 8u);
  }

  // Attempts 0, 1, ... fail there, kDecode after so many tokens of the decode worker, when the client has read them.
  void FailAt(std::vector<Point> points, int decoded_tokens = 2) {
    std::lock_guard<std::mutex> lock(mutex_);
    points_ = std::move(points);
    decoded_tokens_ = decoded_tokens;
  }
  // Instead of TokenAt: of sample 0, from the first token on.
  std::vector<int32_t> text_;

  int32_t TokenAt(int64_t position, uint64_t seed) const {
    const auto index = static_cast<size_t>(position - kPromptTokens);
    if (index < text_.size()) return text_[index];
    return static_cast<int32_t>(200 + (position * 7 + static_cast<int64_t>(seed % 1000) * 13) % 400);
  }
  static float LogprobAt(int64_t position) { return -0.125f * static_cast<float>(position); }

  std::vector<worker::v1::DecodeRequest> decode_requests() {
    std::lock_guard<std::mutex> lock(mutex_);
    return decode_requests_;
  }
  std::vector<worker::v1::PrefillRequest> prefill_requests() {
    std::lock_guard<std::mutex> lock(mutex_);
    return prefill_requests_;
  }

  // Reads to the end, as ClientStream::Finish does, while attempts fail as they should.
  absl::Status Finish(ClientStream& client) {
    std::vector<uint64_t> seeds;
    std::map<uint64_t, int64_t> read;
    while (std::optional<v1::GenerateEvent> event = client.Next()) {
      if (event->has_started()) {
        seeds.assign(event->started().seeds().begin(), event->started().seeds().end());
        if (seeds.empty()) seeds = {event->started().seed()};
      }
      const v1::Delta& delta = event->delta();
      client.text += delta.text();
      client.ids.insert(client.ids.end(), delta.token_ids().begin(), delta.token_ids().end());
      for (const auto& logprob : delta.logprobs()) client.logprobs.push_back(logprob);
      if (event->has_choice_finished()) ends_.push_back(event->choice_finished().choice());
      if (event->has_finished()) client.finished = event->finished();
      if (!event->has_delta()) continue;
      for (const int32_t id : delta.token_ids()) choice_ids_[delta.choice()].push_back(id);
      read[seeds[static_cast<size_t>(delta.choice())]] += delta.token_ids_size();
      EndThoseThatFail(read);
    }
    return FromGrpcStatus(client.reader->Finish());
  }
  std::map<int, std::vector<int32_t>> choice_ids_;
  std::vector<int> ends_;

  bool Idle() {
    return Eventually([&] { return Status().running_requests() == 0 && gateway_->calls() == 0; });
  }

  FakePrefill prefill_;
  FakeDecode decode_;
  // What a decode worker says before it fails (kDecode).
  std::function<void(FakeDecode::Call&)> last_words_;
  grpc::Status failure_ = Unavailable();

 private:
  static uint64_t SeedOf(const worker::v1::Sampling& sampling, int sample) {
    return sample == 0 ? sampling.seed() : sampling.further_seeds(sample - 1);
  }
  // A call that fails once its caller's client has so many tokens of each of its samples.
  struct Failing {
    std::shared_ptr<FakeDecode::Call> call;
    std::vector<uint64_t> seeds;
    int64_t tokens = 0;
  };
  void EndThoseThatFail(const std::map<uint64_t, int64_t>& read) {
    std::vector<std::shared_ptr<FakeDecode::Call>> ready;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (auto next = failing_.begin(); next != failing_.end();) {
        const bool all = std::all_of(next->seeds.begin(), next->seeds.end(), [&](uint64_t seed) {
          const auto found = read.find(seed);
          return found != read.end() && found->second >= next->tokens;
        });
        if (all) ready.push_back(next->call);
        next = all ? failing_.erase(next) : next + 1;
      }
    }
    for (const auto& call : ready) {
      if (last_words_) last_words_(*call);
      call->Finish(failure_);
    }
  }
  bool Fails(size_t attempt, Point point) const { return attempt < points_.size() && points_[attempt] == point; }

  void Decode(const std::shared_ptr<FakeDecode::Call>& call) {
    const worker::v1::DecodeRequest& request = call->request;
    size_t attempt;
    int end_after;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      attempt = decode_requests_.size();
      decode_requests_.push_back(request);
      end_after = Fails(attempt, Point::kDecode) ? decoded_tokens_ : 1 << 20;
      if (Fails(attempt, Point::kReserve)) return call->Finish(failure_);
    }
    call->Push(Reserve(decode_, attempt + 1));
    std::lock_guard<std::mutex> lock(mutex_);
    if (Fails(attempt, Point::kPrefill) || Fails(attempt, Point::kHandoff)) return;
    const int samples = 1 + request.sampling().further_seeds_size();
    if (Fails(attempt, Point::kDecode)) {
      Failing failing{call, {}, request.generated_tokens() + 1 + end_after};
      for (int sample = 0; sample < samples; ++sample) failing.seeds.push_back(SeedOf(request.sampling(), sample));
      failing_.push_back(std::move(failing));
    }
    for (int step = 1; step <= end_after; ++step) {
      const int64_t position = request.tokens_size() + step;
      const int64_t generated = request.generated_tokens() + 1 + step;
      const bool last = generated == request.stopping().max_new_tokens();
      worker::v1::DecodeEvent event;
      for (int sample = 0; sample < samples; ++sample) {
        worker::v1::DecodeEvent one = Tokens(position, {TokenAt(position, SeedOf(request.sampling(), sample))}, sample);
        if (request.logprobs()) {
          one.mutable_progress()->mutable_tokens(0)->add_logprobs()->set_logprob(LogprobAt(position));
        }
        if (last) one.MergeFrom(DecodeDone(worker::v1::LENGTH, sample));
        event.MergeFrom(one);
      }
      call->Push(event);
      if (last) return call->Finish();
    }
  }

  void Prefill(const std::shared_ptr<FakePrefill::Call>& call) {
    const worker::v1::PrefillRequest& request = call->request;
    std::lock_guard<std::mutex> lock(mutex_);
    // The reservation's number is its attempt's.
    const size_t attempt = request.has_handoff() ? request.handoff().reservation_id() - 1 : 1 << 20;
    prefill_requests_.push_back(request);
    if (Fails(attempt, Point::kPrefill)) return call->Finish(failure_);
    const int64_t position = request.tokens_size();
    worker::v1::PrefillEvent event;
    for (int sample = 0; sample <= request.sampling().further_seeds_size(); ++sample) {
      worker::v1::FirstToken* first = event.mutable_first_token();
      if (sample > 0) first = first->add_further();
      first->set_id(TokenAt(position, SeedOf(request.sampling(), sample)));
      if (request.logprobs()) first->mutable_logprobs()->set_logprob(LogprobAt(position));
      if (request.generated_tokens() + 1 == request.stopping().max_new_tokens()) first->set_done(worker::v1::LENGTH);
    }
    // What is cached differs from attempt to attempt; clients hear of the first.
    event.mutable_first_token()->set_cached_tokens(1 + request.generated_tokens());
    call->Push(event);
    if (Fails(attempt, Point::kHandoff)) return call->Finish(Unavailable("HANDOFF_FAILED"));
    worker::v1::PrefillEvent done = PrefillDone();
    done.mutable_done()->set_cached_tokens(1 + request.generated_tokens());
    call->Push(done);
    call->Finish();
  }

  std::mutex mutex_;
  std::vector<Point> points_;
  int decoded_tokens_ = 2;
  std::vector<Failing> failing_;
  std::vector<worker::v1::DecodeRequest> decode_requests_;
  std::vector<worker::v1::PrefillRequest> prefill_requests_;
};

struct Course {
  const char* name;
  std::vector<int> points;
  int decoded_tokens = 2;
};

class EveryStage : public FailoverTest, public ::testing::WithParamInterface<Course> {};

TEST_P(EveryStage, TheStreamIsAsIfNothingHadHappened) {
  v1::GenerateRequest request = SimpleRequest(12);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(5);
  request.mutable_sampling()->set_repetition_penalty(1.5);
  request.mutable_stopping()->set_min_new_tokens(3);
  request.mutable_output()->set_logprobs(true);
  std::vector<Point> points;
  for (const int point : GetParam().points) points.push_back(static_cast<Point>(point));
  FailAt(points, GetParam().decoded_tokens);

  auto client = Stream(request);
  const absl::Status status = Finish(*client);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(client->ids.size(), 12u);
  ASSERT_EQ(client->logprobs.size(), 12u);
  for (int64_t i = 0; i < 12; ++i) {
    EXPECT_EQ(client->ids[static_cast<size_t>(i)], TokenAt(kPromptTokens + i, 5)) << i;
    EXPECT_EQ(client->logprobs[static_cast<size_t>(i)].logprob(), LogprobAt(kPromptTokens + i)) << i;
  }
  ASSERT_TRUE(client->finished.has_value());
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(client->finished->usage().prompt_tokens(), kPromptTokens);
  EXPECT_EQ(client->finished->usage().completion_tokens(), 12);
  EXPECT_EQ(client->finished->usage().cached_prompt_tokens(), 1);

  // Every attempt is asked for what is left of the same request.
  const auto decode_requests = this->decode_requests();
  ASSERT_EQ(decode_requests.size(), points.size() + 1);
  for (const auto& asked : decode_requests) {
    ASSERT_EQ(asked.tokens_size(), kPromptTokens + asked.generated_tokens());
    for (int i = 0; i < asked.generated_tokens(); ++i) EXPECT_EQ(asked.tokens(kPromptTokens + i), client->ids[i]);
    EXPECT_EQ(asked.sampling().seed(), 5u);
    EXPECT_EQ(asked.sampling().repetition_penalty(), 1.5f);
    EXPECT_EQ(asked.stopping().min_new_tokens(), 3);
    EXPECT_EQ(asked.stopping().max_new_tokens(), 12);
    EXPECT_TRUE(asked.logprobs());
  }
  for (const auto& asked : prefill_requests()) {
    EXPECT_EQ(asked.tokens_size(), kPromptTokens + asked.generated_tokens());
  }
  EXPECT_TRUE(Idle());
}

constexpr int kReserve = 0, kPrefill = 1, kHandoff = 2, kDecode = 3;
INSTANTIATE_TEST_SUITE_P(
    Stages, EveryStage,
    ::testing::Values(Course{"Undisturbed", {}}, Course{"Reserving", {kReserve}}, Course{"Prefilling", {kPrefill}},
                      Course{"HandingOff", {kHandoff}}, Course{"Decoding", {kDecode}},
                      Course{"AfterOneToken", {kDecode}, 1}, Course{"WithOneTokenLeft", {kDecode}, 9},
                      Course{"Twice", {kDecode, kDecode}}, Course{"ThenReserving", {kDecode, kReserve}},
                      Course{"ThenPrefilling", {kDecode, kPrefill}}, Course{"ThenHandingOff", {kDecode, kHandoff}},
                      Course{"AgainAndAgain", {kDecode, kReserve, kDecode, kPrefill, kDecode}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(FailoverTest, TheLastTokenNeedsNoDecodeWorker) {
  FailAt({Point::kDecode}, 2);
  auto client = Stream(SimpleRequest(4));
  ASSERT_TRUE(Finish(*client).ok());
  EXPECT_EQ(client->ids.size(), 4u);
  EXPECT_EQ(decode_requests().size(), 1u);
  ASSERT_EQ(prefill_requests().size(), 2u);
  EXPECT_FALSE(prefill_requests()[1].has_handoff());
  EXPECT_TRUE(Idle());
}

TEST_F(FailoverTest, AStopStringMayStraddleTheFailure) {
  const auto tokenizer = Tokenizer::FromModel(TestTokenizerBytes()).value();
  text_ = *tokenizer->Encode("The quick fox jumps over the lazy dog and more");
  v1::GenerateRequest request = SimpleRequest(64);
  request.mutable_stopping()->add_stop("lazy dog");
  // Wherever it is cut, the client reads the same.
  for (int tokens = 1; tokens < static_cast<int>(text_.size()); ++tokens) {
    const size_t before = decode_requests().size();
    std::vector<Point> points(before, Point::kDecode);
    points.push_back(Point::kDecode);
    FailAt(points, tokens);
    auto client = Stream(request);
    const absl::Status status = Finish(*client);
    ASSERT_TRUE(status.ok()) << status << " after " << tokens;
    EXPECT_EQ(client->text, "The quick fox jumps over the ") << "after " << tokens;
    EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_STOP);
    EXPECT_EQ(client->finished->match().stop_string(), "lazy dog");
    ASSERT_TRUE(Idle());
  }
}

TEST_F(FailoverTest, EachChoiceGoesOnFromItsOwnTokens) {
  v1::GenerateRequest request = SimpleRequest(9);
  request.set_n(3);
  request.mutable_sampling()->set_seed(42);
  // The first attempt has all choices; of those it is continued in, one fails again.
  FailAt({Point::kDecode, Point::kDecode});
  auto client = Stream(request);
  const absl::Status status = Finish(*client);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(ends_, ::testing::UnorderedElementsAre(0, 1, 2));
  const auto& finished = client->finished;
  ASSERT_TRUE(finished.has_value());
  ASSERT_EQ(finished->choices_size(), 3);
  for (int choice = 0; choice < 3; ++choice) {
    const uint64_t seed = choice == 0 ? 42 : SampleSeed(42, choice);
    double logprob = 0;
    std::vector<int32_t> expected;
    for (int64_t i = 0; i < 9; ++i) {
      expected.push_back(TokenAt(kPromptTokens + i, seed));
      logprob += static_cast<double>(LogprobAt(kPromptTokens + i));
    }
    EXPECT_EQ(choice_ids_[choice], expected) << choice;
    EXPECT_EQ(finished->choices(choice).usage().completion_tokens(), 9);
    EXPECT_EQ(finished->choices(choice).cumulative_logprob(), logprob);
  }
  EXPECT_EQ(decode_requests().size(), 1u + 3u + 1u);
  EXPECT_TRUE(Idle());
}

TEST_F(FailoverTest, FailuresInARowAreBounded) {
  std::vector<Point> points(10, Point::kReserve);
  points[0] = Point::kDecode;
  FailAt(points);
  auto client = Stream(SimpleRequest(12));
  const absl::Status status = Finish(*client);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("after 3 tokens and 6 failed attempts"));
  EXPECT_FALSE(client->finished.has_value());
  EXPECT_EQ(client->ids.size(), 3u);
  EXPECT_TRUE(Idle());
}

TEST_F(FailoverTest, FailuresAreBoundedInAll) {
  FailAt(std::vector<Point>(100, Point::kDecode), 1);
  const absl::Status status = Finish(*Stream(SimpleRequest(200)));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_LE(decode_requests().size(), 40u);
  EXPECT_TRUE(Idle());
}

TEST_F(FailoverTest, AFullWorkerIsNoReasonToGiveUp) {
  // Its memory for what is to come has run out in the middle.
  failure_ = ToGrpcStatus(WithReason(absl::ResourceExhaustedError("full"), "DECODE_MEMORY_FULL"));
  FailAt({Point::kDecode});
  ExpectEightTokens();
}

TEST_F(FailoverTest, WhatALeavingWorkerLeftIsFetched) {
  worker::v1::SessionKey key;
  key.set_id(std::string(kSessionIdBytes, 'i'));
  key.set_identity(std::string(kIdentityBytes, 's'));
  last_words_ = [&](FakeDecode::Call& call) {
    worker::v1::DecodeEvent event;
    worker::v1::LeftSample* const left = event.mutable_leaving()->add_samples();
    *left->mutable_key() = key;
    // Nonsense is passed over.
    event.mutable_leaving()->add_samples()->set_sample(-7);
    call.Push(event);
  };
  failure_ = Unavailable("DRAINING");
  FailAt({Point::kDecode});
  ExpectEightTokens();
  const auto asked = prefill_requests();
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_FALSE(asked[0].has_session());
  EXPECT_EQ(asked[1].session().endpoint(), decode_.address());
  EXPECT_EQ(asked[1].session().key().id(), key.id());
  EXPECT_EQ(asked[1].session().key().identity(), key.identity());
}

TEST_F(FailoverTest, CopiesWhereNoneCanBeArePassedOver) {
  last_words_ = [&](FakeDecode::Call& call) {
    for (const int32_t standby : {0, -1, 1 << 30}) {
      worker::v1::DecodeEvent event;
      worker::v1::StateCheckpoint* const copy = event.mutable_progress()->add_checkpoints();
      copy->mutable_key()->set_id(std::string(kSessionIdBytes, 'i'));
      copy->mutable_key()->set_identity(std::string(kIdentityBytes, 's'));
      copy->set_position(5);
      copy->set_standby(standby);
      call.Push(event);
    }
  };
  FailAt({Point::kDecode});
  ExpectEightTokens();
  const auto asked = prefill_requests();
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_FALSE(asked[1].has_session());
}

class ImpatientFailoverTest : public FailoverTest {
 protected:
  void Configure() override {
    options_.stall_timeout = std::chrono::milliseconds(100);
    options_.resume_timeout = std::chrono::milliseconds(200);
  }
};

TEST_F(ImpatientFailoverTest, AWorkerThatDoesNotAnswerIsGivenUp) {
  std::atomic<int> calls = 0;
  decode_.SetScript([&](const std::shared_ptr<FakeDecode::Call>&) { ++calls; });
  auto client = Stream(SimpleRequest());
  const absl::Status status = Finish(*client);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "STALLED");
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(Idle());
}

class PatientFailoverTest : public FailoverTest {
 protected:
  void Configure() override {
    options_.stall_timeout = std::chrono::milliseconds(700);
    options_.max_attempts = 1;
  }
};

TEST_F(PatientFailoverTest, OneThatWorksMayTakeItsTime) {
  // It reports its load and gets on: whose turn it is, is its own business.
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>&) {});
  std::atomic<int> calls = 0;
  decode_.SetScript([&](const std::shared_ptr<FakeDecode::Call>& call) {
    ++calls;
    call->Push(Reserve(decode_, 1));
  });
  auto client = Stream(SimpleRequest(), std::chrono::milliseconds(5000));
  std::atomic<bool> over = false;
  std::thread work([&] {
    while (!over) {
      prefill_.load().AddTokens(1);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(Finish(*client)));
  over = true;
  work.join();
  EXPECT_EQ(calls, 1);
}

TEST_F(ImpatientFailoverTest, OneThatHasSaidAllButGoodbyeIsNotMissed) {
  decode_.SetScript([&](const std::shared_ptr<FakeDecode::Call>& call) {
    call->Push(Reserve(decode_, 1));
    call->Push(Tokens(kPromptTokens + 1, {201}));
  });
  auto client = Stream(SimpleRequest(2));
  const absl::Status status = Finish(*client);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(client->ids.size(), 2u);
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(prefill_requests().size(), 1u);
  EXPECT_TRUE(Idle());
}

class OneAttemptTest : public ImpatientFailoverTest {
 protected:
  void Configure() override {
    ImpatientFailoverTest::Configure();
    options_.max_attempts = 1;
  }
};

TEST_F(OneAttemptTest, OneThatReportsAndGetsNowhereIsGivenUpLater) {
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>&) {});
  const absl::Status status = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "STALLED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("prefill worker"));
  EXPECT_TRUE(Idle());
}

TEST_F(ImpatientFailoverTest, WaitingForOtherWorkersIsBounded) {
  last_words_ = [&](FakeDecode::Call&) { decode_.load().SetDraining(); };
  // Until the gateway has heard that there is no worker any more, attempts fail; then it waits in vain.
  FailAt(std::vector<Point>(100, Point::kDecode));
  failure_ = Unavailable("DRAINING");
  const absl::Status status = Finish(*Stream(SimpleRequest(1000)));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(Idle());
}

class BreakerTest : public FailoverTest {
 protected:
  void Configure() override {
    options_.breaker.failures = 2;
    options_.breaker.first_pause = std::chrono::hours(1);
    options_.max_attempts = 2;
  }
};

TEST_F(BreakerTest, AWorkerThatKeepsFailingGetsNoNewRequests) {
  FailAt({Point::kReserve, Point::kReserve, Point::kReserve});
  EXPECT_TRUE(absl::IsUnavailable(Stream(SimpleRequest())->Finish()));
  const absl::Status status = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "NO_WORKERS");
  EXPECT_THAT(std::string(status.message()), HasSubstr("1 decode paused after failures"));
  EXPECT_EQ(decode_requests().size(), 2u);
}

}  // namespace
}  // namespace baton
