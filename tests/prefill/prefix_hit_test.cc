// A prompt that goes on from the prefix cache gives bit for bit what it gives without: first token, log probabilities
// and the state handed off, for every boundary around blocks and windows, through the service.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/state/state_codec.h"
#include "tests/prefill/test_worker.h"

namespace baton {
namespace {

using Behaviour = FakeDecode::Behaviour;
using worker::v1::PrefillRequest;

class PrefixHitTest : public testing::TestWithParam<std::string> {
 protected:
  PrefixHitTest() : model_(LoadTestModel(GetParam())), reference_model_(LoadTestModel(GetParam())) {}

  TestWorkerOptions Options(int64_t cache_bytes, int64_t step_tokens = 512) const {
    TestWorkerOptions options;
    options.engine.step_tokens = step_tokens;
    options.engine.prefix_cache.bytes = cache_bytes;
    return options;
  }

  // All that a prompt gave, as text that differs when a bit does; the state as what a decoder can see of it.
  std::string Outcome(TestPrefillWorker& worker, const std::vector<int32_t>& prompt, int64_t* cached) {
    const uint64_t reservation = ++reservations_;
    const int64_t length = static_cast<int64_t>(prompt.size());
    decode_.Plan(reservation, {Behaviour::kAccept, grpc::Status::OK, length});
    PrefillRequest request = worker.RequestTo(decode_.endpoint(), reservation, prompt);
    request.set_logprobs(true);
    request.set_top_logprobs(5);
    PrefillResult result = worker.Run(request);
    EXPECT_TRUE(result.status.ok()) << result.absl_status();
    if (!result.first_token.has_value() || !result.done.has_value()) return "nothing";
    *cached = result.done->cached_tokens();
    EXPECT_EQ(result.first_token->cached_tokens(), *cached);
    result.first_token->clear_cached_tokens();
    MemoryBudget budget(int64_t{1} << 30);
    SequenceState state = SequenceState::Create(reference_model_->MakeStateLayout(1), budget, length + 10).value();
    StateReader reader(reference_model_->fingerprint(), &state);
    EXPECT_TRUE(reader.Feed(decode_.Get(reservation).bytes).ok());
    EXPECT_TRUE(reader.committed());
    return absl::StrCat(result.first_token->SerializeAsString(), "|", VisibleState(state));
  }

  const std::unique_ptr<Model> model_;
  const std::unique_ptr<Model> reference_model_;
  FakeDecode decode_;
  uint64_t reservations_ = 0;
};

INSTANTIATE_TEST_SUITE_P(All, PrefixHitTest, testing::Values(kTinyGemma, kTinyGemma2, kTinyRecurrentGemma),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(PrefixHitTest, EqualsAMissAtEveryBoundary) {
  // Windows are of 64 and 65 tokens.
  const int64_t lengths[] = {1, 62, 63, 64, 65, 66, 127, 128, 129, 130, 191, 192, 193, 255, 256, 257, 300};
  for (const int64_t step_tokens : {512, 50}) {
    int64_t hits = 0;
    std::vector<std::string> expected;
    {
      TestPrefillWorker without(reference_model_.get(), Options(0, step_tokens));
      for (const int64_t length : lengths) {
        int64_t cached = 0;
        expected.push_back(Outcome(without, RandomPrompt(*model_, length, 1), &cached));
        EXPECT_EQ(cached, 0);
      }
    }
    // Each length finds what all others left, whichever comes first.
    for (const bool ascending : {true, false}) {
      TestPrefillWorker with(model_.get(), Options(int64_t{1} << 26, step_tokens));
      for (size_t i = 0; i < expected.size(); ++i) {
        const size_t at = ascending ? i : expected.size() - 1 - i;
        for (int repeat = 0; repeat < 2; ++repeat) {
          int64_t cached = 0;
          EXPECT_TRUE(Outcome(with, RandomPrompt(*model_, lengths[at], 1), &cached) == expected[at])
              << lengths[at] << " tokens, " << cached << " cached";
          EXPECT_EQ(cached % 64, 0);
          EXPECT_LT(cached, lengths[at]);
          if (ascending || repeat == 1) {
            EXPECT_EQ(cached, (lengths[at] - 1) / 64 * 64) << lengths[at];
          }
          hits += cached > 0 ? 1 : 0;
        }
      }
    }
    EXPECT_GT(hits, 30);
  }
}

// Prompts that have only a part in common, and branch off where nobody stopped before.
TEST_P(PrefixHitTest, EqualsAMissForBranches) {
  TestPrefillWorker with(model_.get(), Options(int64_t{1} << 26));
  TestPrefillWorker without(reference_model_.get(), Options(0));
  const std::vector<int32_t> trunk = RandomPrompt(*model_, 400, 1);
  int64_t last_cached = 0;
  uint64_t seed = 100;
  for (const int64_t common : {400, 200, 200, 127, 128, 129, 63, 64, 65, 320, 199}) {
    std::vector<int32_t> prompt = RandomPrompt(*model_, 410, ++seed);
    std::copy(trunk.begin(), trunk.begin() + common, prompt.begin());
    int64_t cached = 0;
    const std::string expected = Outcome(without, prompt, &cached);
    EXPECT_TRUE(Outcome(with, prompt, &cached) == expected) << common << " in common, " << cached << " cached";
    EXPECT_LE(cached, common);
    last_cached = cached;
  }
  EXPECT_EQ(last_cached, 192);
}

// Scores are computed, so the cache goes no further than the first scored token.
TEST_P(PrefixHitTest, ScoresAreComputedWhateverIsCached) {
  TestPrefillWorker with(model_.get(), Options(int64_t{1} << 26));
  TestPrefillWorker without(reference_model_.get(), Options(0));
  const std::vector<int32_t> prompt = RandomPrompt(*model_, 300, 1);
  int64_t cached = 0;
  Outcome(with, prompt, &cached);
  Outcome(with, prompt, &cached);
  EXPECT_EQ(cached, 256);
  for (const bool score_only : {false, true}) {
    for (const int score_from : {1, 63, 64, 65, 128, 129, 130, 299}) {
      PrefillRequest request = with.Request(prompt);
      request.set_score_from(score_from);
      request.set_score_only(score_only);
      request.set_top_logprobs(2);
      const PrefillResult expected = without.Run(request);
      for (int repeat = 0; repeat < 2; ++repeat) {
        const PrefillResult actual = with.Run(request);
        ASSERT_TRUE(actual.status.ok()) << actual.absl_status();
        EXPECT_TRUE(actual.in_order);
        EXPECT_LT(actual.done->cached_tokens(), score_from);
        if (repeat == 1) {
          EXPECT_EQ(actual.done->cached_tokens(), (score_from - 1) / 64 * 64);
        }
        EXPECT_EQ(actual.first_scored, score_from);
        EXPECT_EQ(actual.scored_ids, expected.scored_ids);
        ASSERT_EQ(actual.scores.size(), expected.scores.size());
        for (size_t i = 0; i < actual.scores.size(); ++i) {
          ASSERT_EQ(actual.scores[i].SerializeAsString(), expected.scores[i].SerializeAsString()) << i;
        }
      }
    }
  }
}

TEST_P(PrefixHitTest, SaltsDoNotShare) {
  TestPrefillWorker worker(model_.get(), Options(int64_t{1} << 26));
  const std::vector<int32_t> prompt = RandomPrompt(*model_, 200, 1);
  const auto cached = [&](const std::string& salt) {
    PrefillRequest request = worker.Request(prompt);
    request.set_cache_salt(salt);
    return worker.Run(request).done->cached_tokens();
  };
  EXPECT_EQ(cached("a"), 0);
  EXPECT_EQ(cached("b"), 0);
  EXPECT_EQ(cached("a"), 192);
  PrefillRequest request = worker.Request(prompt);
  request.set_cache_salt(std::string(129, 'x'));
  EXPECT_TRUE(absl::IsInvalidArgument(worker.Run(request).absl_status()));
}

// What the cache holds is there for whoever needs it: prompts that fill the whole memory, one after the other.
TEST_P(PrefixHitTest, NeverStandsInTheWay) {
  const int64_t state = model_->MakeStateLayout(64)->BytesFor(600);
  TestWorkerOptions options = Options(state, 64);
  options.memory = state;
  TestPrefillWorker worker(model_.get(), options);
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    const PrefillResult result = worker.Run(worker.Request(RandomPrompt(*model_, seed % 2 == 0 ? 600 : 150, seed)));
    ASSERT_TRUE(result.status.ok()) << result.absl_status();
  }
  std::vector<std::unique_ptr<PrefillStream>> streams;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    streams.push_back(
        worker.Start(worker.Request(RandomPrompt(*model_, 100 + 41 * static_cast<int64_t>(seed), seed % 4))));
  }
  for (const auto& stream : streams) EXPECT_TRUE(stream->ReadAll().status.ok());
  EXPECT_TRUE(Eventually([&] { return worker.load().Snapshot().running() == 0; }));
  EXPECT_LE(worker.budget().used(), options.memory);
}

TEST_P(PrefixHitTest, CountsWhatItDoes) {
  TestPrefillWorker worker(model_.get(), Options(int64_t{1} << 26));
  const std::vector<int32_t> prompt = RandomPrompt(*model_, 200, 1);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(worker.Run(worker.Request(prompt)).status.ok());
  EXPECT_EQ(worker.tokens_done(), 200 + 2 * 8);
  EXPECT_EQ(worker.MetricSum("baton_prompt_tokens_total", "source", "computed"), 200 + 2 * 8);
  EXPECT_EQ(worker.MetricSum("baton_prompt_tokens_total", "source", "cached"), 2 * 192);
  EXPECT_EQ(worker.MetricSum("baton_prefix_cache_lookups_total", "result", "hit"), 2);
  EXPECT_EQ(worker.MetricSum("baton_prefix_cache_lookups_total", "result", "miss"), 1);
  EXPECT_TRUE(Eventually([&] {
    return worker.MetricSum("baton_prefix_cache_bytes") == static_cast<double>(worker.budget().used()) &&
           worker.MetricSum("baton_prefix_cache_blocks") == 3;
  }));
  EXPECT_GT(worker.budget().used(), 0);
}

}  // namespace
}  // namespace baton
