#include "common/sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

namespace baton {
namespace {

using ::testing::ElementsAre;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> RandomLogits(int count, uint32_t seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

struct Token {
  int32_t id;
  double logit;
  double probability;
};

// What the header documents, computed in the most obvious way. `counts`: id -> (in prompt, times in output).
// Survivors with probabilities, descending.
std::vector<Token> ReferenceDistribution(const std::vector<float>& logits, const SamplingParams& params,
                                         const std::map<int32_t, std::pair<bool, int>>& counts,
                                         const std::vector<int32_t>& masked) {
  std::vector<Token> tokens;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    float logit = logits[id];
    for (const auto& [biased, bias] : params.logit_bias) {
      if (biased == id) logit += bias;
    }
    const auto& allowed = params.allowed_token_ids;
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), id) == allowed.end()) continue;
    if (const auto count = counts.find(id); count != counts.end()) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      if (count->second.second > 0) {
        logit -= params.presence_penalty + params.frequency_penalty * count->second.second;
      }
    }
    if (std::find(masked.begin(), masked.end(), id) != masked.end()) continue;
    tokens.push_back({id, logit, 0});
  }
  const auto descending = [](const Token& a, const Token& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  std::sort(tokens.begin(), tokens.end(), descending);
  if (params.temperature == 0) return {{tokens[0].id, tokens[0].logit, 1}};
  const auto normalise = [&] {
    double total = 0;
    for (const Token& token : tokens) total += token.probability;
    for (Token& token : tokens) token.probability /= total;
  };
  for (Token& token : tokens) token.probability = std::exp((token.logit - tokens[0].logit) / params.temperature);
  if (params.top_k > 0 && tokens.size() > static_cast<size_t>(params.top_k)) tokens.resize(params.top_k);
  normalise();
  if (params.typical_p < 1) {
    double entropy = 0;
    for (const Token& token : tokens) entropy -= token.probability * std::log(token.probability);
    std::stable_sort(tokens.begin(), tokens.end(), [&](const Token& a, const Token& b) {
      return std::abs(-std::log(a.probability) - entropy) < std::abs(-std::log(b.probability) - entropy);
    });
    double mass = 0;
    size_t kept = 0;
    while (kept < tokens.size() && mass < params.typical_p) mass += tokens[kept++].probability;
    tokens.resize(kept);
    std::sort(tokens.begin(), tokens.end(), descending);
    normalise();
  }
  double before = 0;
  size_t kept = 0;
  while (kept < tokens.size() && (kept == 0 || before < params.top_p)) before += tokens[kept++].probability;
  tokens.resize(kept);
  const double largest = tokens[0].probability;
  while (tokens.back().probability < params.min_p * largest) tokens.pop_back();
  normalise();
  return tokens;
}

int32_t ReferenceDraw(const std::vector<Token>& distribution, double uniform) {
  double cumulative = 0;
  for (const Token& token : distribution) {
    cumulative += token.probability;
    if (cumulative > uniform) return token.id;
  }
  return distribution.back().id;
}

TEST(Sampler, EqualsTheReference) {
  std::mt19937 random(1);
  const auto pick = [&](std::vector<float> values) { return values[random() % values.size()]; };
  Sampler sampler;
  for (int round = 0; round < 600; ++round) {
    const int vocabulary = static_cast<int>(pick({1, 2, 17, 300, 2048}));
    std::vector<float> logits = RandomLogits(vocabulary, round, pick({0.01f, 1, 5, 15}));
    if (round % 3 == 0) {  // ties
      for (float& logit : logits) logit = std::round(logit);
    }
    SamplingParams params;
    params.temperature = pick({0, 0.1f, 0.7f, 1, 2.5f});
    params.top_k = static_cast<int32_t>(pick({-1, 0, 1, 3, 40, 1000}));
    params.top_p = pick({1, 1, 0.95f, 0.5f, 0.01f});
    params.min_p = pick({0, 0, 0.05f, 0.5f, 1});
    params.typical_p = pick({1, 1, 0.9f, 0.2f});
    params.repetition_penalty = pick({1, 1.3f, 0.7f});
    params.presence_penalty = pick({0, 0.5f, -1});
    params.frequency_penalty = pick({0, 0.25f, -0.5f});
    params.seed = random();
    if (random() % 3 == 0) {
      params.logit_bias = {{0, pick({-100, 3})}};
      if (vocabulary > 10) params.logit_bias.push_back({7, pick({100, -3})});
    }
    if (random() % 3 == 0) {
      for (int id = 0; id < vocabulary; id += 1 + random() % 5) params.allowed_token_ids.push_back(id);
    }
    std::vector<int32_t> masked;
    if (vocabulary > 2 && random() % 2 == 0) masked = {1, vocabulary - 1};
    TokenHistory history;
    std::map<int32_t, std::pair<bool, int>> counts;
    for (int i = 0; i < 20; ++i) {
      const int32_t id = random() % vocabulary;
      if (i % 2 == 0) {
        history.AddPrompt({id});
        counts[id].first = true;
      } else {
        history.AddOutput(id);
        ++counts[id].second;
      }
    }
    const std::vector<Token> distribution = ReferenceDistribution(logits, params, counts, masked);
    for (int64_t position = 0; position < 20; ++position) {
      ASSERT_EQ(sampler.Sample(logits, params, history, masked, position),
                ReferenceDraw(distribution, UniformAt(params.seed, position)))
          << "round " << round << " position " << position;
    }
  }
}

TEST(Sampler, EqualsTheReferenceOnAWholeVocabulary) {
  Sampler sampler;
  for (const float scale : {0.0f, 1.0f, 6.0f}) {
    const std::vector<float> logits = RandomLogits(256000, 5, scale);
    for (const SamplingParams& params :
         {SamplingParams{.seed = 3}, SamplingParams{.top_k = 50, .top_p = 0.9f}, SamplingParams{.top_p = 0.9f},
          SamplingParams{.min_p = 0.01f}, SamplingParams{.top_k = 100000}, SamplingParams{.typical_p = 0.5f}}) {
      const std::vector<Token> distribution = ReferenceDistribution(logits, params, {}, {});
      for (int64_t position = 0; position < 3; ++position) {
        // Sums of 256000 terms in another order may differ in the last digits, which can move a draw to a neighbour.
        const int32_t drawn = sampler.Sample(logits, params, {}, {}, position);
        const double uniform = UniformAt(params.seed, position);
        const int32_t below = ReferenceDraw(distribution, std::max(0.0, uniform - 1e-6));
        const int32_t above = ReferenceDraw(distribution, uniform + 1e-6);
        const double low = logits[above];
        const double high = logits[below];
        EXPECT_GE(logits[drawn], low);
        EXPECT_LE(logits[drawn], high);
      }
    }
  }
}

// Pearson's test of draws at many positions against the reference's probabilities.
double ChiSquare(const std::vector<float>& logits, const SamplingParams& params, int draws, int* degrees) {
  const std::vector<Token> distribution = ReferenceDistribution(logits, params, {}, {});
  std::map<int32_t, int> counts;
  Sampler sampler;
  for (int64_t position = 0; position < draws; ++position) {
    ++counts[sampler.Sample(logits, params, {}, {}, position)];
  }
  double chi_square = 0;
  int seen = 0;
  for (const Token& token : distribution) {
    const double expected = token.probability * draws;
    chi_square += (counts[token.id] - expected) * (counts[token.id] - expected) / expected;
    seen += counts[token.id];
  }
  EXPECT_EQ(seen, draws) << "a token was drawn that must not be";
  *degrees = static_cast<int>(distribution.size()) - 1;
  return chi_square;
}

TEST(Sampler, DrawsFromTheDistribution) {
  const std::vector<float> logits = RandomLogits(24, 77, 1);
  for (const SamplingParams& params :
       {SamplingParams{.seed = 1}, SamplingParams{.temperature = 0.6f, .seed = 2},
        SamplingParams{.top_k = 8, .seed = 3}, SamplingParams{.top_p = 0.8f, .seed = 4},
        SamplingParams{.min_p = 0.2f, .seed = 5}, SamplingParams{.typical_p = 0.7f, .seed = 6}}) {
    int degrees = 0;
    const double chi_square = ChiSquare(logits, params, 40000, &degrees);
    ASSERT_GT(degrees, 1);
    // Wilson and Hilferty's approximation of the 99.9% quantile.
    const double ninth = 2.0 / (9 * degrees);
    EXPECT_LT(chi_square, degrees * std::pow(1 - ninth + 3.09 * std::sqrt(ninth), 3)) << "seed " << params.seed;
  }
}

TEST(Sampler, GreedyTakesTheLowestIdOnTies) {
  Sampler sampler;
  EXPECT_EQ(sampler.Sample({1, 5, 5, 2}, {.temperature = 0}, {}, {}, 0), 1);
  EXPECT_EQ(sampler.Sample({1, 5, 5, 2}, {.temperature = 0}, {}, {1}, 0), 2);
  EXPECT_EQ(sampler.Sample({1, 5, 5, 2}, {.temperature = 0, .logit_bias = {{3, 4}}}, {}, {}, 0), 3);
}

TEST(Sampler, TopKOneIsGreedyOnTies) {
  Sampler sampler;
  for (int position = 0; position < 50; ++position) {
    EXPECT_EQ(sampler.Sample({1, 5, 5, 2}, {.temperature = 3, .top_k = 1}, {}, {}, position), 1);
  }
}

TEST(Sampler, IsAFunctionOfSeedAndPosition) {
  const std::vector<float> logits = RandomLogits(1000, 4, 1);
  const auto sequence = [&](uint64_t seed) {
    std::vector<int32_t> ids;
    Sampler sampler;
    for (int64_t position = 100; position < 120; ++position) {
      ids.push_back(sampler.Sample(logits, {.seed = seed}, {}, {}, position));
    }
    return ids;
  };
  EXPECT_EQ(sequence(9), sequence(9));
  EXPECT_NE(sequence(9), sequence(10));
}

TEST(Sampler, ScratchLeavesNoTrace) {
  const std::vector<float> large = RandomLogits(3000, 4, 1);
  const std::vector<float> small = RandomLogits(10, 5, 1);
  Sampler used;
  for (int64_t position = 0; position < 30; ++position) {
    used.Sample(large, {.top_k = 7, .typical_p = 0.5f, .allowed_token_ids = {1, 2, 3}}, {}, {1}, position);
    EXPECT_EQ(used.Sample(small, {}, {}, {}, position), Sampler().Sample(small, {}, {}, {}, position));
  }
}

TEST(Sampler, PromptTokensAreOnlySubjectToRepetitionPenalty) {
  Sampler sampler;
  TokenHistory history;
  history.AddPrompt({0});
  EXPECT_EQ(sampler.Sample({2, 1}, {.temperature = 0, .presence_penalty = 2, .frequency_penalty = 2}, history, {}, 0),
            0);
  EXPECT_EQ(sampler.Sample({2, 1.5}, {.temperature = 0, .repetition_penalty = 2}, history, {}, 0), 1);
  history.AddOutput(0);
  EXPECT_EQ(sampler.Sample({2, 1}, {.temperature = 0, .presence_penalty = 2}, history, {}, 0), 1);
}

TEST(Sampler, FrequencyPenaltyCounts) {
  Sampler sampler;
  TokenHistory history;
  history.AddOutput(0);
  const SamplingParams params = {.temperature = 0, .frequency_penalty = 1};
  EXPECT_EQ(sampler.Sample({2.5, 1}, params, history, {}, 0), 0);
  history.AddOutput(0);
  EXPECT_EQ(sampler.Sample({2.5, 1}, params, history, {}, 0), 1);
}

TEST(Sampler, NeverDrawsNanOrMinusInfinity) {
  Sampler sampler;
  const std::vector<float> logits = {kNan, -kInfinity, 0, kNan, 0.5};
  for (const SamplingParams& params :
       {SamplingParams{}, SamplingParams{.temperature = 0}, SamplingParams{.top_k = 5}, SamplingParams{.top_p = 0.99f},
        SamplingParams{.typical_p = 0.99f}, SamplingParams{.temperature = 1e6f},
        SamplingParams{.repetition_penalty = 1.5f}}) {
    TokenHistory history;
    history.AddPrompt({0, 1, 2, 3, 4});
    for (int position = 0; position < 50; ++position) {
      const int32_t id = sampler.Sample(logits, params, history, {}, position);
      EXPECT_TRUE(id == 2 || id == 4) << id;
    }
  }
}

TEST(Sampler, PlusInfinityTakesAll) {
  Sampler sampler;
  for (const SamplingParams& params : {SamplingParams{}, SamplingParams{.temperature = 0}, SamplingParams{.top_k = 2},
                                       SamplingParams{.typical_p = 0.5f}, SamplingParams{.top_p = 0.9f}}) {
    EXPECT_EQ(sampler.Sample({0, kInfinity, 3}, params, {}, {}, 0), 1);
  }
}

TEST(Sampler, ExtremeTemperatures) {
  Sampler sampler;
  const std::vector<float> logits = {3, 3.0001f, -3e38f, 1};
  for (int position = 0; position < 20; ++position) {
    EXPECT_EQ(sampler.Sample(logits, {.temperature = 1e-45f}, {}, {}, position), 1);
    EXPECT_EQ(sampler.Sample(logits, {.temperature = 1e-30f, .top_k = 3}, {}, {}, position), 1);
    const int32_t hot = sampler.Sample(logits, {.temperature = 3e38f, .top_p = 0.999f}, {}, {}, position);
    EXPECT_TRUE(hot >= 0 && hot < 4);
  }
}

TEST(Sampler, DropsTheMaskWhenNothingElseIsLeft) {
  Sampler sampler;
  EXPECT_EQ(sampler.Sample({1, 2}, {}, {}, {0, 1}, 0), sampler.Sample({1, 2}, {}, {}, {}, 0));
  EXPECT_EQ(sampler.Sample({1, 2, 9}, {.allowed_token_ids = {1}}, {}, {1}, 0), 1);
}

TEST(Sampler, TakesTheLowestAllowedIdWhenNoLogitIsUsable) {
  Sampler sampler;
  const std::vector<float> logits = {kNan, kNan, -kInfinity, -kInfinity};
  EXPECT_EQ(sampler.Sample(logits, {}, {}, {}, 0), 0);
  EXPECT_EQ(sampler.Sample(logits, {.temperature = 0, .allowed_token_ids = {3, 2, -1, 9}}, {}, {2}, 0), 2);
}

TEST(Sampler, IgnoresIdsOutOfRange) {
  Sampler sampler;
  TokenHistory history;
  history.AddPrompt({-5, 1 << 30});
  history.AddOutput(99);
  const SamplingParams params = {.temperature = 0,
                                 .repetition_penalty = 2,
                                 .presence_penalty = 1,
                                 .logit_bias = {{-1, 5}, {2, 5}},
                                 .allowed_token_ids = {0, 1, 2, -7}};
  EXPECT_EQ(sampler.Sample({1, 2}, params, history, {-1, 2}, 0), 1);
}

TEST(ComputeLogprob, IsLogSoftmax) {
  const std::vector<float> logits = RandomLogits(2048, 3, 5);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  const int32_t greedy = std::max_element(logits.begin(), logits.end()) - logits.begin();
  for (const int32_t id : {0, 5, 2047, greedy}) {
    const TokenLogprob result = ComputeLogprob(logits, id, 0);
    EXPECT_NEAR(result.logprob, logits[id] - std::log(sum), 2e-6);
    EXPECT_EQ(result.is_greedy, id == greedy);
    EXPECT_TRUE(result.top.empty());
  }
}

TEST(ComputeLogprob, ListsTheMostLikely) {
  const TokenLogprob result = ComputeLogprob({1, 3, 2, 3}, 3, 3);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].first, 1);
  EXPECT_EQ(result.top[1].first, 3);
  EXPECT_EQ(result.top[2].first, 2);
  EXPECT_EQ(result.top[1].second, result.logprob);
  EXPECT_FALSE(result.is_greedy) << "id 1 has the same logit and comes first";
  EXPECT_EQ(ComputeLogprob({1, 3}, 0, 20).top.size(), 2u);
}

TEST(ComputeLogprob, TopEqualsAFullSort) {
  std::vector<float> logits = RandomLogits(5000, 8, 3);
  for (size_t i = 0; i < logits.size(); i += 3) logits[i] = std::round(logits[i]);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (const int top : {1, 2, 20, 500}) {
    const TokenLogprob result = ComputeLogprob(logits, 0, top);
    ASSERT_EQ(result.top.size(), static_cast<size_t>(top));
    for (int i = 0; i < top; ++i) EXPECT_EQ(result.top[i].first, order[i]);
  }
}

TEST(ComputeLogprob, IsNeverNan) {
  EXPECT_EQ(ComputeLogprob({kNan, kNan}, 0, 2).logprob, -kInfinity);
  EXPECT_TRUE(ComputeLogprob({kNan, kNan}, 0, 2).top.empty());
  EXPECT_EQ(ComputeLogprob({kNan, 1}, 0, 0).logprob, -kInfinity);
  EXPECT_EQ(ComputeLogprob({kNan, 1}, 1, 0).logprob, 0);
  EXPECT_EQ(ComputeLogprob({kInfinity, 1}, 0, 0).logprob, 0);
  EXPECT_EQ(ComputeLogprob({kInfinity, kInfinity}, 1, 0).logprob, std::log(0.5f));
  EXPECT_EQ(ComputeLogprob({1, 2}, 2, 0).logprob, -kInfinity);
  EXPECT_EQ(ComputeLogprob({1, 2}, -1, 0).logprob, -kInfinity);
  EXPECT_EQ(ComputeLogprob({}, 0, 3).logprob, -kInfinity);
}

}  // namespace
}  // namespace baton
