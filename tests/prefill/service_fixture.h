// What the tests of the prefill service share: one model for the worker and one for themselves, and the plain way to
// compute a prompt.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "tests/prefill/test_worker.h"

namespace baton {

inline Model& WorkerModel() {
  static const std::unique_ptr<Model> model = LoadTestModel(kTinyGemma2);
  return *model;
}

// For what the tests compute themselves: a model has one user.
inline Model& OwnModel() {
  static const std::unique_ptr<Model> model = LoadTestModel(kTinyGemma2);
  return *model;
}

inline TestWorkerOptions Options(int64_t step_tokens = 64) {
  TestWorkerOptions options;
  options.engine.step_tokens = step_tokens;
  return options;
}

// Steps that take long enough for a test to act between them.
inline TestWorkerOptions SlowOptions(int64_t step_tokens = 8) {
  TestWorkerOptions options = Options(step_tokens);
  options.engine.step_delay = absl::Milliseconds(20);
  return options;
}

struct Local {
  SequenceState state;
  std::vector<float> logits;  // [tokens, vocab_size]
};

inline Local RunLocally(const std::vector<int32_t>& tokens) {
  static MemoryBudget budget(int64_t{1} << 30);
  Model& model = OwnModel();
  absl::StatusOr<SequenceState> state =
      SequenceState::Create(model.MakeStateLayout(128), budget, static_cast<int64_t>(tokens.size()));
  BATON_CHECK(state.ok());
  std::vector<float> logits = RunTokens(model, *state, tokens, 0);
  return Local{*std::move(state), std::move(logits)};
}

inline absl::Span<const float> Row(const Local& local, size_t position) {
  const size_t vocab = OwnModel().config().vocab_size;
  return absl::MakeSpan(local.logits).subspan(position * vocab, vocab);
}

inline int32_t Greedy(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace baton
