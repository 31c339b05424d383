// Results against the reference's.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "tests/golden/checks.h"
#include "tests/golden/sequence.h"

namespace baton {
namespace {

// Prompts longer than this are held to the bounds of long ones.
constexpr size_t kLongPrompt = 500;

// Compares what passes by with the golden file's hidden states.
class HiddenChecker : public ForwardObserver {
 public:
  HiddenChecker(const GoldenFile& golden, const std::string& label) : golden_(golden), prefix_(label + ".hidden.") {}

  void OnHidden(absl::string_view what, absl::Span<const float> rows) override {
    const std::string name = absl::StrCat(prefix_, what);
    if (!status_.ok() || !golden_.Has(name)) return;
    const absl::StatusOr<std::vector<float>> want = golden_.Floats(name, static_cast<int64_t>(rows.size()));
    status_ = want.status();
    if (want.ok()) difference_.Add(rows, *want);
  }

  const absl::Status& status() const { return status_; }
  const Difference& difference() const { return difference_; }

 private:
  const GoldenFile& golden_;
  const std::string prefix_;
  absl::Status status_;
  Difference difference_;
};

class ReferenceChecker {
 public:
  ReferenceChecker(Model& model, const GoldenFile& golden, std::vector<CheckResult>* results)
      : model_(model), golden_(golden), bounds_(BoundsFor(model.weights())), results_(results) {}

  absl::Status CheckPrompt(const GoldenPrompt& prompt) {
    const int64_t length = static_cast<int64_t>(prompt.tokens.size());
    BATON_ASSIGN_OR_RETURN(Sequence sequence,
                           Sequence::Create(model_, static_cast<int>(length), length + prompt.greedy.size()));
    const bool every_position = golden_.Has(prompt.label + ".hidden.embed");
    HiddenChecker hidden(golden_, prompt.label);
    std::vector<float> logits = sequence.Feed(model_, prompt.tokens, every_position ? &hidden : nullptr);
    BATON_RETURN_IF_ERROR(hidden.status());
    if (every_position) Report(prompt.label + ".hidden", hidden.difference(), bounds_.hidden);

    BATON_RETURN_IF_ERROR(CheckLogits(prompt, logits));
    BATON_RETURN_IF_ERROR(CheckState(prompt, sequence));
    return CheckSteps(prompt, std::move(logits), sequence);
  }

 private:
  // One position's logits, or every position's: as many as are stored.
  absl::Status CheckLogits(const GoldenPrompt& prompt, const std::vector<float>& last) {
    const std::string name = prompt.label + ".logits";
    if (!golden_.Has(name)) return absl::OkStatus();
    Bound bound = prompt.tokens.size() >= kLongPrompt ? bounds_.long_logits : bounds_.prompt_logits;
    Difference difference;
    const int64_t every = static_cast<int64_t>(last.size() * prompt.tokens.size());
    if (const auto all = golden_.Floats(name, every); prompt.tokens.size() > 1 && all.ok()) {
      BATON_ASSIGN_OR_RETURN(Sequence fresh, Sequence::Create(model_, static_cast<int>(prompt.tokens.size()),
                                                              static_cast<int64_t>(prompt.tokens.size())));
      difference.Add(fresh.FeedForAllLogits(model_, prompt.tokens), *all);
      bound = bounds_.every_position_logits;
    } else {
      BATON_ASSIGN_OR_RETURN(std::vector<float> want, golden_.Floats(name, static_cast<int64_t>(last.size())));
      difference.Add(last, want);
    }
    Report(name, difference, bound);
    return absl::OkStatus();
  }

  // Greedy decoding along the reference's tokens, so that every step is compared.
  absl::Status CheckSteps(const GoldenPrompt& prompt, std::vector<float> logits, Sequence& sequence) {
    if (prompt.greedy.empty()) return absl::OkStatus();
    const int64_t vocabulary = static_cast<int64_t>(logits.size());
    const std::string name = prompt.label + ".step_logits";
    std::vector<float> want;
    if (golden_.Has(name)) {
      BATON_ASSIGN_OR_RETURN(want, golden_.Floats(name, vocabulary * static_cast<int64_t>(prompt.greedy.size())));
    }
    Difference difference;
    int64_t clear = 0;
    int64_t wrong = 0;
    for (size_t step = 0; step < prompt.greedy.size(); ++step) {
      if (step > 0) logits = sequence.Feed(model_, {&prompt.greedy[step - 1], 1});
      if (!want.empty()) difference.Add(logits, absl::MakeSpan(want).subspan(step * vocabulary, vocabulary));
      if (prompt.greedy_margin[step] < bounds_.margin) continue;
      ++clear;
      wrong += ArgMax(logits) != prompt.greedy[step] ? 1 : 0;
    }
    if (!want.empty()) Report(name, difference, bounds_.step_logits);
    if (bounds_.margin < Bound::kNone) results_->push_back(CountCheck(prompt.label + ".greedy", clear, wrong));
    return absl::OkStatus();
  }

  absl::Status CheckState(const GoldenPrompt& prompt, Sequence& sequence) {
    Difference kv, rg_lru, conv;
    const int64_t length = static_cast<int64_t>(prompt.tokens.size());
    const ModelConfig& config = model_.config();
    for (int layer = 0; layer < config.num_layers; ++layer) {
      const std::string prefix = absl::StrCat(prompt.label, ".cache.layer", layer, ".");
      if (golden_.Has(prefix + "k")) {
        // All positions of Gemma, the last W of RecurrentGemma.
        const int64_t stored = std::min(length, golden_.Elements(prefix + "k") / config.KvWidth());
        BATON_ASSIGN_OR_RETURN(std::vector<float> k, golden_.Floats(prefix + "k", stored * config.KvWidth()));
        BATON_ASSIGN_OR_RETURN(std::vector<float> v, golden_.Floats(prefix + "v", stored * config.KvWidth()));
        kv.Add(sequence.Keys(layer, length - stored, length), k);
        kv.Add(sequence.Values(layer, length - stored, length), v);
      }
      if (golden_.Has(prefix + "rg_lru_state")) {
        BATON_ASSIGN_OR_RETURN(std::vector<float> want, golden_.Floats(prefix + "rg_lru_state", config.lru_width));
        rg_lru.Add(sequence.state().RgLruState(layer), want);
      }
      if (golden_.Has(prefix + "conv1d_state")) {
        BATON_ASSIGN_OR_RETURN(
            std::vector<float> want,
            golden_.Floats(prefix + "conv1d_state", int64_t{config.conv_width - 1} * config.lru_width));
        conv.Add(sequence.ConvInputs(layer), want);
      }
    }
    if (kv.values() > 0) Report(prompt.label + ".kv", kv, bounds_.state);
    if (rg_lru.values() > 0) Report(prompt.label + ".rg_lru_state", rg_lru, bounds_.state);
    if (conv.values() > 0) Report(prompt.label + ".conv1d_state", conv, bounds_.state);
    return absl::OkStatus();
  }

  void Report(std::string name, const Difference& difference, const Bound& bound) {
    results_->push_back(difference.Finish(std::move(name), bound));
  }

  Model& model_;
  const GoldenFile& golden_;
  const Bounds& bounds_;
  std::vector<CheckResult>* results_;
};

// Last-position logits of every prompt that has `<label>.<variant>.logits`.
absl::Status CheckVariant(Model& model, const GoldenFile& golden, const std::string& variant,
                          std::vector<CheckResult>* results) {
  for (const GoldenPrompt& prompt : golden.prompts()) {
    const std::string name = absl::StrCat(prompt.label, ".", variant, ".logits");
    if (!golden.Has(name)) continue;
    const int length = static_cast<int>(prompt.tokens.size());
    BATON_ASSIGN_OR_RETURN(Sequence sequence, Sequence::Create(model, length, length));
    const std::vector<float> logits = sequence.Feed(model, prompt.tokens);
    BATON_ASSIGN_OR_RETURN(std::vector<float> want, golden.Floats(name, static_cast<int64_t>(logits.size())));
    Difference difference;
    difference.Add(logits, want);
    results->push_back(difference.Finish(name, BoundsFor(model.weights()).prompt_logits));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckReference(Model& model, const GoldenFile& golden, std::vector<CheckResult>* results) {
  ReferenceChecker checker(model, golden, results);
  for (const GoldenPrompt& prompt : golden.prompts()) BATON_RETURN_IF_ERROR(checker.CheckPrompt(prompt));
  return absl::OkStatus();
}

absl::Status CheckVariants(const std::string& directory, const ModelOptions& options, Model& model,
                           const GoldenFile& golden, std::vector<CheckResult>* results) {
  // Gemma's embedding scale is rounded to the type of the activations: to bf16 only in bf16.
  if (ComputeModeOf(options.weights) == ComputeMode::kBF16) {
    BATON_RETURN_IF_ERROR(CheckVariant(model, golden, "alt_embscale", results));
  }
  if (model.config().family != ModelFamily::kRecurrentGemma) return absl::OkStatus();
  ModelOptions transformers = options;
  transformers.config.deepmind_window = false;
  BATON_ASSIGN_OR_RETURN(std::unique_ptr<Model> narrow, Model::Load(directory, transformers));
  return CheckVariant(*narrow, golden, "alt_window", results);
}

}  // namespace baton
