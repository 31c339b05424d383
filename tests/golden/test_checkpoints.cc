#include "tests/golden/test_checkpoints.h"

#include <cstdint>
#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/model/synth.h"

namespace baton {
namespace {

const std::string kGoldenData = std::string(BATON_TEST_DATA) + "/golden/";

// Seeds of the formula weights.
const std::map<std::string, uint64_t>& Seeds() {
  static const auto& seeds = *new std::map<std::string, uint64_t>{
      {"gemma-tiny", 101},       {"gemma-tiny-bf16", 122},     {"gemma2-tiny", 202},
      {"gemma2-tiny-bf16", 223}, {"recurrentgemma-tiny", 304}, {"recurrentgemma-tiny-bf16", 322},
  };
  return seeds;
}

}  // namespace

absl::StatusOr<TestCheckpoint> TestCheckpoint::Golden(const std::string& name) {
  const std::string in_tree = kGoldenData + name;
  if (std::filesystem::exists(in_tree + "/model.safetensors") ||
      std::filesystem::exists(in_tree + "/model.safetensors.index.json")) {
    return TestCheckpoint(in_tree);
  }
  const auto seed = Seeds().find(name);
  if (seed == Seeds().end()) return absl::NotFoundError(absl::StrCat(in_tree, ": neither weights nor a seed"));

  TestCheckpoint checkpoint(std::make_unique<TemporaryDirectory>());
  SynthOptions options;
  BATON_ASSIGN_OR_RETURN(options.config_text, ReadFile(in_tree + "/config.json"));
  options.config_path = in_tree + "/config.json";
  options.seed = seed->second;
  options.dtype = absl::EndsWith(name, "-bf16") ? TensorType::kBF16 : TensorType::kF32;
  options.out = checkpoint.directory();
  options.threads = 1;
  BATON_RETURN_IF_ERROR(WriteSyntheticCheckpoint(options).status());
  return checkpoint;
}

TestCheckpoint TestCheckpoint::Bundled(const std::string& name) {
  return TestCheckpoint(std::string(BATON_BUNDLED_MODELS) + "/" + name);
}

std::string GoldenPath(const std::string& name) {
  return absl::StrCat(kGoldenData, absl::StripSuffix(name, "-sharded"), ".golden.safetensors");
}

}  // namespace baton
