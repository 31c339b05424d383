// What a handoff in int8 costs: the state of a trained model goes through the wire format in 8-bit codes, and the
// answer is continued from what came out, beside the answer from the exact state. The figures are part of the test's
// output.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "common/compute/bf16.h"
#include "common/state/state_codec.h"
#include "tests/golden/sequence.h"
#include "tests/golden/trained_model.h"

namespace baton {
namespace {

class HandoffInt8Test : public testing::TestWithParam<std::string> {};

std::vector<float> Feed(Model& model, SequenceState& state, absl::Span<const int32_t> tokens) {
  std::vector<float> logits(model.config().vocab_size);
  const SequenceRun run = {&state, tokens, tokens.size() - 1};
  model.Forward({&run, 1}, absl::MakeSpan(logits));
  return logits;
}

// Errors of K and V relative to the largest element of their row, all that a decoder sees.
struct RowErrors {
  double largest = 0;
  double sum = 0;
  int64_t elements = 0;
};

void Compare(const SequenceState& exact, const SequenceState& rounded, RowErrors* errors) {
  const StateLayout& layout = exact.layout();
  for (int layer = 0; layer < static_cast<int>(layout.layers.size()); ++layer) {
    const LayerStateSpec& spec = layout.layers[layer];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) continue;
    for (int head = 0; head < spec.kv_heads; ++head) {
      for (int64_t position = exact.FirstNeededPosition(layer, exact.position()); position < exact.position();
           ++position) {
        KvSpan a;
        KvSpan b;
        exact.ForEachKvSpan(layer, head, position, position + 1, [&](const KvSpan& span) { a = span; });
        rounded.ForEachKvSpan(layer, head, position, position + 1, [&](const KvSpan& span) { b = span; });
        for (const bool keys : {true, false}) {
          const auto* x = reinterpret_cast<const uint16_t*>(keys ? a.keys : a.values);
          const auto* y = reinterpret_cast<const uint16_t*>(keys ? b.keys : b.values);
          double scale = 1e-30;
          for (int i = 0; i < spec.head_dim; ++i) scale = std::max<double>(scale, std::abs(Bf16ToFloat(x[i])));
          for (int i = 0; i < spec.head_dim; ++i) {
            const double error = std::abs(Bf16ToFloat(x[i]) - Bf16ToFloat(y[i])) / scale;
            errors->largest = std::max(errors->largest, error);
            errors->sum += error;
            ++errors->elements;
          }
        }
      }
    }
  }
}

TEST_P(HandoffInt8Test, TheErrorIsSmall) {
  ModelOptions options;
  options.threads = 2;
  absl::StatusOr<TrainedModel> trained = TrainedModel::Load(GetParam(), options);
  ASSERT_TRUE(trained.ok()) << trained.status();
  Model& model = trained->model();
  MemoryBudget budget(int64_t{1} << 30);
  RowErrors errors;
  int64_t tokens = 0;
  int64_t agreeing = 0;
  double logit_error = 0;
  for (const TrainedPrompt& prompt : trained->prompts()) {
    const auto n = static_cast<int64_t>(prompt.ids.size());
    const auto layout = model.MakeStateLayout(static_cast<int>(n));
    const int64_t max_tokens = n + static_cast<int64_t>(prompt.answer.size()) + 1;
    SequenceState exact = SequenceState::Create(layout, budget, max_tokens).value();
    SequenceState rounded = SequenceState::Create(layout, budget, max_tokens).value();
    Feed(model, exact, prompt.ids);
    StateWriter writer(model.fingerprint(), *layout, n, KvEncoding::kInt8);
    std::string stream;
    writer.AppendHeader(&stream);
    writer.AppendPieces(exact, &stream);
    writer.AppendCommit({.id = prompt.answer[0]}, &stream);
    StateReader reader(model.fingerprint(), &rounded);
    ASSERT_TRUE(reader.Feed(stream).ok()) << reader.Feed("");
    ASSERT_TRUE(reader.committed());
    Compare(exact, rounded, &errors);
    // Along the stored answer, so that one near tie does not end the comparison.
    for (const int32_t token : prompt.answer) {
      const std::vector<float> a = Feed(model, exact, {&token, 1});
      const std::vector<float> b = Feed(model, rounded, {&token, 1});
      for (size_t i = 0; i < a.size(); ++i) logit_error = std::max<double>(logit_error, std::abs(a[i] - b[i]));
      ++tokens;
      agreeing += ArgMax(a) == ArgMax(b);
    }
  }
  std::printf(
      "%s, handed over in int8: K and V off by %.4f at most and %.5f on average, of a row's largest element; "
      "logits by %.3f at most; %lld of %lld greedy tokens agree\n",
      GetParam().c_str(), errors.largest, errors.sum / static_cast<double>(errors.elements), logit_error,
      static_cast<long long>(agreeing), static_cast<long long>(tokens));
  // Half a step of 1 / 127, the scale's rounding to bfloat16 (2^-9) and the result's (2^-9 of it).
  EXPECT_LE(errors.largest, 0.5 / 127 + 1.0 / 256);
  EXPECT_GT(errors.largest, 0) << "it was not rounded at all";
  EXPECT_LE(errors.sum / static_cast<double>(errors.elements), 0.25 / 127 + 1.0 / 512);
  EXPECT_LE(logit_error, 0.4);
  EXPECT_GE(agreeing, tokens * 98 / 100);
}

INSTANTIATE_TEST_SUITE_P(Bundled, HandoffInt8Test, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace baton
