// Many requests at once, at workers that answer, fail and hang as chance has it, with hedges all the time: every answer
// is the one that it would have been, and nothing is left at any worker.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/sampling/sample_seed.h"
#include "tests/gateway/hedge_fixture.h"

namespace baton {
namespace {

using std::chrono::milliseconds;

constexpr int kOutputTokens = 5;

class HedgeStressTest : public HedgeTest {
 protected:
  void Configure() override {
    options_.hedge.after = milliseconds(3);
    options_.max_attempts = 16;
  }
  void SetUp() override {
    HedgeTest::SetUp();
    for (FakePrefill* worker : prefill_workers_) {
      worker->SetScript([this](const std::shared_ptr<FakePrefill::Call>& call) { Run(call); });
    }
    for (FakeDecode* worker : decode_workers_) {
      worker->SetScript([this, worker](const std::shared_ptr<FakeDecode::Call>& call) { Run(worker, call); });
    }
  }
  void TearDown() override { timers_.Stop(); }

  // What any worker says of a sample with this seed at this position.
  static int32_t TokenAt(int64_t position, uint64_t seed) {
    return static_cast<int32_t>(200 + (position * 7 + static_cast<int64_t>(seed % 1000) * 13) % 400);
  }
  static uint64_t SeedOf(const worker::v1::Sampling& sampling, int sample) {
    return sample == 0 ? sampling.seed() : sampling.further_seeds(sample - 1);
  }

  int Chance(int below) {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::uniform_int_distribution<int>(0, below - 1)(chance_);
  }
  // Mostly at once, now and then far too late.
  milliseconds Delay() { return milliseconds(Chance(4) == 0 ? 4 + Chance(20) : Chance(3)); }
  void Keep(std::function<bool()> over) {
    std::lock_guard<std::mutex> lock(mutex_);
    calls_.push_back(std::move(over));
  }

  void Run(FakeDecode* worker, const std::shared_ptr<FakeDecode::Call>& call) {
    Keep([call] { return call->WaitUntilOver(); });
    const bool fails = Chance(8) == 0;
    const uint64_t number = ++numbers_;
    timers_.After(Delay(), [=] {
      if (fails) return call->Finish(Unavailable());
      call->Push(Reserve(*worker, number));
      const worker::v1::DecodeRequest& request = call->request;
      const int samples = 1 + request.sampling().further_seeds_size();
      for (int64_t step = 1; request.generated_tokens() + step < kOutputTokens; ++step) {
        const int64_t position = request.tokens_size() + step;
        const bool last = request.generated_tokens() + step + 1 == kOutputTokens;
        worker::v1::DecodeEvent event;
        for (int sample = 0; sample < samples; ++sample) {
          worker::v1::DecodeEvent one =
              Tokens(position, {TokenAt(position, SeedOf(request.sampling(), sample))}, sample);
          if (request.logprobs()) one.mutable_progress()->mutable_tokens(0)->add_logprobs();
          if (last) one.MergeFrom(DecodeDone(worker::v1::LENGTH, sample));
          event.MergeFrom(one);
        }
        call->Push(event);
      }
      call->Finish();
    });
  }

  void Run(const std::shared_ptr<FakePrefill::Call>& call) {
    Keep([call] { return call->WaitUntilOver(); });
    const int fate = Chance(16);
    const auto finish = [=] {
      const worker::v1::PrefillRequest& request = call->request;
      if (fate == 0) return call->Finish(Unavailable());
      if (fate == 1) return call->Finish();
      worker::v1::PrefillEvent event;
      for (int sample = 0; sample <= request.sampling().further_seeds_size(); ++sample) {
        worker::v1::FirstToken* first = event.mutable_first_token();
        if (sample > 0) first = first->add_further();
        first->set_id(TokenAt(request.tokens_size(), SeedOf(request.sampling(), sample)));
        if (request.logprobs()) first->mutable_logprobs();
      }
      call->Push(event);
      call->Push(PrefillDone());
      call->Finish();
    };
    const milliseconds scores = Delay();
    timers_.After(scores, [=] {
      if (!call->request.has_score_from()) return finish();
      call->Push(Scores(1, {100, 101}));
      timers_.After(Delay(), [=] {
        call->Push(Scores(3, {102}));
        finish();
      });
    });
  }

  void Ask(int number) {
    v1::GenerateRequest request = SimpleRequest(kOutputTokens);
    request.mutable_sampling()->set_temperature(1);
    request.mutable_sampling()->set_seed(static_cast<uint64_t>(number));
    const int choices = Chance(3) == 0 ? 3 : 1;
    if (choices > 1) request.set_n(choices);
    const bool scored = Chance(4) == 0;
    request.mutable_output()->set_prompt_logprobs(scored);
    auto client = Stream(request);
    const bool cancelled = Chance(10) == 0;
    if (cancelled) {
      std::this_thread::sleep_for(Delay());
      client->context.TryCancel();
    }
    std::map<int, std::vector<int32_t>> ids;
    std::vector<int32_t> scores;
    while (std::optional<v1::GenerateEvent> event = client->Next()) {
      for (const auto& score : event->prompt_logprobs().tokens()) scores.push_back(score.id());
      auto& of_choice = ids[event->delta().choice()];
      of_choice.insert(of_choice.end(), event->delta().token_ids().begin(), event->delta().token_ids().end());
    }
    const absl::Status status = FromGrpcStatus(client->reader->Finish());
    // The answer may have been whole by then; what had arrived is dropped, unread.
    if (cancelled) return;
    // A worker that breaks the protocol ends a request that has no other attempt.
    if (absl::IsInternal(status)) return;
    ASSERT_TRUE(status.ok()) << status;
    if (scored) EXPECT_EQ(scores, (std::vector<int32_t>{100, 101, 102}));
    for (int choice = 0; choice < choices; ++choice) {
      const auto seed = static_cast<uint64_t>(number);
      std::vector<int32_t> expected;
      for (int64_t i = 0; i < kOutputTokens; ++i) {
        expected.push_back(TokenAt(kPromptTokens + i, choice == 0 ? seed : SampleSeed(seed, choice)));
      }
      EXPECT_EQ(ids[choice], expected) << "request " << number << " choice " << choice;
    }
    ++answers_;
  }

  std::atomic<int> answers_{0};
  std::atomic<uint64_t> numbers_{0};
  Timers timers_;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::mt19937 chance_{1};
  std::vector<std::function<bool()>> calls_;
};

TEST_F(HedgeStressTest, WhateverHappensTheAnswerIsTheSame) {
  constexpr int kClients = 6;
  constexpr int kRequests = 40;
  std::vector<std::thread> clients;
  std::atomic<bool> over = false;
  // Else workers that were late once are left alone for a second.
  std::thread reports([&] {
    while (!over) {
      Report();
      std::this_thread::sleep_for(milliseconds(5));
    }
  });
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([this, client] {
      for (int i = 0; i < kRequests; ++i) Ask(client * kRequests + i);
    });
  }
  for (std::thread& client : clients) client.join();
  over = true;
  reports.join();
  EXPECT_GT(answers_, kClients * kRequests / 2);
  EXPECT_TRUE(Eventually([&] { return Status().running_requests() == 0 && gateway_->calls() == 0; }));
  std::vector<std::function<bool()>> calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    calls.swap(calls_);
  }
  for (const auto& call_is_over : calls) EXPECT_TRUE(call_is_over());
  EXPECT_GT(Count("baton_hedges_total"), 0);
}

}  // namespace
}  // namespace baton
