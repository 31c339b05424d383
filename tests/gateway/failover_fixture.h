// A gateway before workers that fail where a test says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {

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

}  // namespace baton
