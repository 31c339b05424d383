// A prompt's results against the same prompt's results, cut and batched in other ways.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "tests/golden/checks.h"
#include "tests/golden/sequence.h"

namespace baton {
namespace {

constexpr int kChunks[] = {1, 7, 16};
// Runs of the ragged batch: each sequence's lengths vary from step to step in 1..kLongestRun.
constexpr int kLongestRun = 23;
constexpr size_t kLongPrompt = 500;

struct Outcome {
  std::vector<float> logits;
  std::vector<float> state;
};

int64_t DifferentBits(const std::vector<float>& a, const std::vector<float>& b) {
  int64_t different = 0;
  for (size_t i = 0; i < a.size(); ++i) different += std::memcmp(&a[i], &b[i], sizeof(float)) != 0 ? 1 : 0;
  return different;
}

void Compare(const std::string& name, const Outcome& got, const Outcome& want, double allowed,
             std::vector<CheckResult>* results) {
  BATON_CHECK(got.logits.size() == want.logits.size() && got.state.size() == want.state.size());
  if (allowed == 0) {
    const int64_t different = DifferentBits(got.logits, want.logits) + DifferentBits(got.state, want.state);
    results->push_back(CountCheck(name, static_cast<int64_t>(got.logits.size() + got.state.size()), different));
    return;
  }
  Difference difference;
  difference.Add(got.logits, want.logits);
  difference.Add(got.state, want.state);
  results->push_back(difference.Finish(name, {.max_abs = allowed}));
}

absl::StatusOr<Outcome> RunInChunks(Model& model, const GoldenPrompt& prompt, int chunk) {
  BATON_ASSIGN_OR_RETURN(Sequence sequence, Sequence::Create(model, chunk, static_cast<int64_t>(prompt.tokens.size())));
  Outcome outcome;
  outcome.logits = sequence.Feed(model, prompt.tokens);
  outcome.state = sequence.StateValues();
  return outcome;
}

// All prompts side by side until the last one is through. Logits are asked for from every other run, so that wanted and
// unwanted rows mix.
absl::StatusOr<std::vector<Outcome>> RunBatched(Model& model, const std::vector<GoldenPrompt>& prompts) {
  const size_t vocabulary = model.config().vocab_size;
  std::vector<Sequence> sequences;
  for (const GoldenPrompt& prompt : prompts) {
    BATON_ASSIGN_OR_RETURN(Sequence sequence,
                           Sequence::Create(model, kLongestRun, static_cast<int64_t>(prompt.tokens.size())));
    sequences.push_back(std::move(sequence));
  }
  std::vector<Outcome> outcomes(prompts.size());
  std::vector<SequenceRun> runs;
  std::vector<size_t> run_prompts;
  for (int step = 0;; ++step) {
    runs.clear();
    run_prompts.clear();
    size_t logit_rows = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const absl::Span<const int32_t> rest = absl::MakeSpan(prompts[i].tokens).subspan(sequences[i].state().position());
      if (rest.empty()) continue;
      const size_t length = 1 + (5 * i + 11 * step) % kLongestRun;
      SequenceRun run{&sequences[i].state(), rest.subspan(0, length), 0};
      const bool last = run.tokens.size() == rest.size();
      run.logits_from = last || (i + step) % 2 == 0 ? run.tokens.size() - 1 : run.tokens.size();
      logit_rows += run.tokens.size() - run.logits_from;
      runs.push_back(run);
      run_prompts.push_back(i);
    }
    if (runs.empty()) break;
    std::vector<float> logits(logit_rows * vocabulary);
    model.Forward(runs, absl::MakeSpan(logits));
    const float* row = logits.data();
    for (size_t r = 0; r < runs.size(); ++r) {
      if (runs[r].logits_from == runs[r].tokens.size()) continue;
      outcomes[run_prompts[r]].logits.assign(row, row + vocabulary);  // the last one stays
      row += vocabulary;
    }
  }
  for (size_t i = 0; i < prompts.size(); ++i) outcomes[i].state = sequences[i].StateValues();
  return outcomes;
}

}  // namespace

absl::Status CheckInvariance(Model& model, const GoldenFile& golden, std::vector<CheckResult>* results) {
  const Bounds& bounds = BoundsFor(model.weights());
  BATON_ASSIGN_OR_RETURN(const std::vector<Outcome> batched, RunBatched(model, golden.prompts()));
  for (size_t i = 0; i < golden.prompts().size(); ++i) {
    const GoldenPrompt& prompt = golden.prompts()[i];
    const int length = static_cast<int>(prompt.tokens.size());
    const double allowed = prompt.tokens.size() >= kLongPrompt ? bounds.long_invariance : bounds.invariance;
    BATON_ASSIGN_OR_RETURN(const Outcome whole, RunInChunks(model, prompt, length));
    for (const int chunk : kChunks) {
      if (chunk >= length) continue;
      BATON_ASSIGN_OR_RETURN(const Outcome chunked, RunInChunks(model, prompt, chunk));
      Compare(absl::StrCat(prompt.label, ".chunks_of_", chunk), chunked, whole, allowed, results);
    }
    Compare(prompt.label + ".batched", batched[i], whole, allowed, results);
  }
  return absl::OkStatus();
}

}  // namespace baton
