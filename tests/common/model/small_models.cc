#include "tests/common/model/small_models.h"

#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/mapped_file.h"
#include "common/model/synth.h"
#include "tests/temporary_directory.h"

namespace baton {

const std::string& CheckpointDirectory(const std::string& config_name, TensorType dtype) {
  static std::map<std::string, TemporaryDirectory> directories;
  const auto [directory, fresh] = directories.try_emplace(absl::StrCat(config_name, TensorTypeName(dtype)));
  const std::string& path = directory->second.path();
  if (!fresh) return path;
  SynthOptions options;
  options.config_text = *ReadFile(absl::StrCat(BATON_TEST_DATA, "/golden/", config_name, "/config.json"));
  options.seed = 7;
  options.dtype = dtype;
  options.out = path;
  options.threads = 1;
  const auto written = WriteSyntheticCheckpoint(options);
  EXPECT_TRUE(written.ok()) << written.status();
  return path;
}

std::unique_ptr<Model> LoadModel(const std::string& directory, WeightPrecision weights, int threads) {
  ModelOptions options;
  options.weights = weights;
  options.threads = threads;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(directory, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(*model);
}

MemoryBudget& Budget() {
  static MemoryBudget budget(int64_t{1} << 32);
  return budget;
}

SequenceState NewState(const Model& model, int max_run, int64_t max_tokens) {
  absl::StatusOr<SequenceState> state = SequenceState::Create(model.MakeStateLayout(max_run), Budget(), max_tokens);
  EXPECT_TRUE(state.ok()) << state.status();
  return std::move(*state);
}

std::vector<int32_t> Prompt(int length, int seed) {
  std::vector<int32_t> tokens = {2};
  while (static_cast<int>(tokens.size()) < length) {
    tokens.push_back(3 + static_cast<int32_t>(SynthRaw("prompt", seed, tokens.size()) % 500));
  }
  return tokens;
}

std::vector<float> Logits(Model& model, SequenceState& state, absl::Span<const int32_t> tokens) {
  std::vector<float> logits(tokens.size() * model.config().vocab_size);
  const SequenceRun run{&state, tokens, 0};
  model.Forward({&run, 1}, absl::MakeSpan(logits));
  return logits;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace baton
