// Models that tests load: the bundled ones, and a Gemma 1 from the synthesis formula. Also the plain way to run a
// prompt, which everything else is compared with.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/model/model.h"
#include "common/model/synth.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"

namespace baton {

inline constexpr char kTinyGemma2[] = "tiny-gemma2";
inline constexpr char kTinyRecurrentGemma[] = "tiny-recurrentgemma";
// Synthesized in bfloat16: global attention in every layer.
inline constexpr char kTinyGemma[] = "gemma-tiny";

// Writes the checkpoint on first use; it is removed when the process ends.
inline const std::string& SynthesizedGemma() {
  struct Directory {
    std::string path;
    Directory() {
      path = absl::StrCat(std::filesystem::temp_directory_path().string(), "/baton_gemma_tiny_", getpid());
      absl::StatusOr<std::string> config = ReadFile(BATON_TEST_DATA "/golden/gemma-tiny/config.json");
      BATON_CHECK(config.ok());
      SynthOptions options;
      options.config_text = *std::move(config);
      options.seed = 101;
      options.dtype = TensorType::kBF16;
      options.out = path;
      options.force = true;
      options.threads = 1;
      BATON_CHECK(WriteSyntheticCheckpoint(options).ok());
    }
    ~Directory() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Directory directory;
  return directory.path;
}

inline std::unique_ptr<Model> LoadTestModel(const std::string& name, WeightPrecision weights = WeightPrecision::kBf16) {
  ModelOptions options;
  options.weights = weights;
  options.threads = 1;
  const std::string directory = name == kTinyGemma ? SynthesizedGemma() : absl::StrCat(BATON_BUNDLED_MODELS "/", name);
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(directory, options);
  if (!model.ok()) std::fprintf(stderr, "%s\n", model.status().ToString().c_str());
  BATON_CHECK(model.ok());
  return *std::move(model);
}

// BOS, then ordinary tokens.
inline std::vector<int32_t> RandomPrompt(const Model& model, int64_t tokens, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int32_t> pick(6, static_cast<int32_t>(model.config().vocab_size) - 1);
  std::vector<int32_t> prompt = {2};
  while (static_cast<int64_t>(prompt.size()) < tokens) prompt.push_back(pick(random));
  return prompt;
}

// Runs `tokens` from the state's position on, in runs of at most the layout's max_run_tokens. Returns the logits of
// every token from `logits_from` on: [tokens.size() - logits_from, vocab_size].
inline std::vector<float> RunTokens(Model& model, SequenceState& state, absl::Span<const int32_t> tokens,
                                    size_t logits_from) {
  const size_t vocab = static_cast<size_t>(model.config().vocab_size);
  std::vector<float> logits((tokens.size() - logits_from) * vocab);
  size_t written = 0;
  for (size_t at = 0; at < tokens.size();) {
    const size_t count = std::min<size_t>(state.layout().max_run_tokens, tokens.size() - at);
    SequenceRun run;
    run.state = &state;
    run.tokens = tokens.subspan(at, count);
    run.logits_from = logits_from <= at ? 0 : std::min(count, logits_from - at);
    const size_t rows = count - run.logits_from;
    model.Forward({&run, 1}, absl::MakeSpan(logits).subspan(written * vocab, rows * vocab));
    written += rows;
    at += count;
  }
  return logits;
}

// What a decoder at the state's position can see of it, as bytes.
inline std::string VisibleState(const SequenceState& state) {
  const StateLayout& layout = state.layout();
  std::string bytes = absl::StrCat(state.position(), ";");
  for (int layer = 0; layer < static_cast<int>(layout.layers.size()); ++layer) {
    const LayerStateSpec& spec = layout.layers[layer];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
      const absl::Span<const float> rg_lru = state.RgLruState(layer);
      const absl::Span<const std::byte> conv = state.ConvState(layer);
      bytes.append(reinterpret_cast<const char*>(rg_lru.data()), rg_lru.size() * sizeof(float));
      bytes.append(reinterpret_cast<const char*>(conv.data()), conv.size());
      continue;
    }
    const int64_t row_bytes = spec.head_dim * ElementBytes(layout.element);
    for (int head = 0; head < spec.kv_heads; ++head) {
      std::string values;
      state.ForEachKvSpan(layer, head, state.FirstNeededPosition(layer, state.position()), state.position(),
                          [&](const KvSpan& span) {
                            bytes.append(reinterpret_cast<const char*>(span.keys), span.count * row_bytes);
                            values.append(reinterpret_cast<const char*>(span.values), span.count * row_bytes);
                          });
      bytes += values;
    }
  }
  return bytes;
}

}  // namespace baton
