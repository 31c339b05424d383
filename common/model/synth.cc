#include "common/model/synth.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/bytes.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/base/thread_pool.h"
#include "common/compute/bf16.h"
#include "common/model/json_object.h"
#include "common/model/safetensors_writer.h"

namespace baton {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

// Elements that one thread makes and writes at once; and those between two calls of progress.
constexpr int64_t kBlockElements = 64 << 10;
constexpr int64_t kBlocksPerTask = 8;
constexpr int64_t kBlocksPerProgress = 256;
// Headers and JSON files, generously.
constexpr int64_t kOverheadBytes = 4 << 20;

struct Shard {
  std::string name;
  std::vector<TensorSpec> specs;
  int64_t bytes = 0;
};

struct Plan {
  std::string config_text;
  std::string generation_text;
  std::string tokenizer;
  std::vector<Shard> shards;
  SynthSummary summary;
};

absl::Status ErrorAt(const std::error_code& error, absl::string_view message) {
  return absl::ErrnoToStatus(error.value(), message);
}

int64_t Elements(const TensorSpec& spec) {
  int64_t elements = 1;
  for (int64_t dimension : spec.shape) elements *= dimension;
  return elements;
}

absl::StatusOr<std::string> ChooseConfig(const SynthOptions& options) {
  if (options.preset.empty() == options.config_text.empty()) {
    return absl::InvalidArgumentError("a synthetic checkpoint takes either a preset or a config, not both or neither");
  }
  if (options.preset.empty()) return options.config_text;
  std::vector<std::string> names;
  for (const SynthPreset& preset : SynthPresets()) {
    if (preset.name == options.preset) return preset.config_text;
    names.push_back(preset.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no preset ", Quoted(options.preset), "; there are ", absl::StrJoin(names, ", ")));
}

absl::string_view TorchTypeName(TensorType type) {
  if (type == TensorType::kF32) return "float32";
  return type == TensorType::kF16 ? "float16" : "bfloat16";
}

// The config as given, but naming the type that is written.
std::string ConfigWithType(absl::string_view text, TensorType type) {
  ordered_json config = ordered_json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  BATON_CHECK(config.is_object());  // ParseModelConfig took it
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = std::string(TorchTypeName(type));
  return config.dump(2) + "\n";
}

std::string GenerationText(const GenerationConfig& generation) {
  const std::vector<int32_t>& stops = generation.eos_token_ids;
  const ordered_json text = {
      {"_from_model_config", true},
      {"bos_token_id", generation.bos_token_id},
      {"eos_token_id", stops.size() == 1 ? ordered_json(stops.front()) : ordered_json(stops)},
      {"pad_token_id", generation.pad_token_id},
  };
  return text.dump(2) + "\n";
}

// Cuts like huggingface_hub: a shard ends before the tensor that would take it beyond the limit.
std::vector<Shard> PlanShards(std::vector<TensorSpec> specs, TensorType type, int64_t shard_bytes) {
  std::vector<Shard> shards;
  for (TensorSpec& spec : specs) {
    const int64_t bytes = Elements(spec) * TensorTypeBytes(type);
    if (shards.empty() || shards.back().bytes + bytes > shard_bytes) shards.emplace_back();
    shards.back().bytes += bytes;
    shards.back().specs.push_back(std::move(spec));
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = shards.size() == 1 ? "model.safetensors"
                                        : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
  }
  return shards;
}

absl::StatusOr<Plan> MakePlan(const SynthOptions& options) {
  if (options.out.empty()) return absl::InvalidArgumentError("no output directory given");
  if (!IsFloat(options.dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights can't be of type ", TensorTypeName(options.dtype), "; expected BF16, F16 or F32"));
  }
  if (options.shard_bytes < 1) return absl::InvalidArgumentError("the shard size must be positive");
  BATON_ASSIGN_OR_RETURN(const std::string config_text, ChooseConfig(options));
  BATON_ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(config_text, options.config_path));
  BATON_ASSIGN_OR_RETURN(const GenerationConfig generation,
                         ParseGenerationConfig("", config_text, options.config_path));
  Plan plan;
  plan.config_text = ConfigWithType(config_text, options.dtype);
  plan.generation_text = GenerationText(generation);
  if (!options.tokenizer_path.empty()) {
    BATON_ASSIGN_OR_RETURN(plan.tokenizer, ReadFile(options.tokenizer_path));
  }
  plan.shards = PlanShards(ExpectedTensors(config), options.dtype, options.shard_bytes);
  for (const Shard& shard : plan.shards) {
    plan.summary.tensor_bytes += shard.bytes;
    plan.summary.files.push_back(shard.name);
  }
  plan.summary.parameters = plan.summary.tensor_bytes / TensorTypeBytes(options.dtype);
  return plan;
}

bool BelongsToCheckpoint(absl::string_view name) {
  name = absl::StripSuffix(name, ".partial");
  return name == "config.json" || name == "generation_config.json" || name == "tokenizer.model" ||
         name == "model.safetensors.index.json" ||
         (absl::StartsWith(name, "model") && absl::EndsWith(name, ".safetensors"));
}

// Creates the directory or clears the old checkpoint in it, config.json first.
absl::Status PrepareDirectory(const SynthOptions& options, int64_t bytes) {
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) return ErrorAt(error, absl::StrCat("can't create directory ", options.out));
  std::vector<fs::path> old;
  int64_t old_bytes = 0;
  for (fs::directory_iterator entry(options.out, error), end; !error && entry != end; entry.increment(error)) {
    if (!options.force) {
      return absl::AlreadyExistsError(
          absl::StrCat(options.out, ": is not empty; choose another directory or force it"));
    }
    if (!BelongsToCheckpoint(entry->path().filename().string())) continue;
    std::error_code ignored;
    if (entry->is_regular_file(ignored)) old_bytes += static_cast<int64_t>(entry->file_size(ignored));
    old.push_back(entry->path());
  }
  if (error) return ErrorAt(error, absl::StrCat("can't list directory ", options.out));

  struct statvfs disk {};
  if (statvfs(options.out.c_str(), &disk) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("can't see the free space of ", options.out));
  }
  const int64_t free = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize) + old_bytes;
  if (free < bytes + kOverheadBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(options.out, ": the checkpoint takes ", FormatBytes(bytes),
                                                     ", but the disk has only ", FormatBytes(free), " free"));
  }
  std::sort(old.begin(), old.end());
  for (const fs::path& path : old) {
    if (!fs::remove(path, error) && error) return ErrorAt(error, absl::StrCat("can't remove ", path.string()));
  }
  return absl::OkStatus();
}

// IEEE binary16, nearest even; the formula's values never overflow it.
uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude < (113u << 23)) {
    // Subnormal: adding 0.5 lets the float unit round at bit 2^-24.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f)));
  }
  const uint32_t rounded = magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

// Elements in the file's type, little-endian.
absl::string_view Encode(absl::Span<const float> values, TensorType type, std::vector<uint16_t>& halves) {
  if (type == TensorType::kF32) return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
  halves.resize(values.size());
  if (type == TensorType::kBF16) {
    std::transform(values.begin(), values.end(), halves.begin(), FloatToBf16);
  } else {
    std::transform(values.begin(), values.end(), halves.begin(), FloatToHalf);
  }
  return {reinterpret_cast<const char*>(halves.data()), halves.size() * sizeof(uint16_t)};
}

class WeightWriter {
 public:
  WeightWriter(const SynthOptions& options, int64_t total_bytes)
      : options_(options), pool_({.threads = options.threads}), total_bytes_(total_bytes) {}

  absl::Status WriteShard(const Shard& shard) {
    const std::string path = absl::StrCat(options_.out, "/", shard.name);
    BATON_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, shard.specs, options_.dtype));
    for (size_t i = 0; i < shard.specs.size(); ++i) {
      BATON_RETURN_IF_ERROR(WriteTensor(*writer, i, shard.specs[i]));
    }
    return writer->Finish();
  }

 private:
  absl::Status WriteTensor(SafetensorsWriter& writer, size_t tensor, const TensorSpec& spec) {
    const int64_t elements = Elements(spec);
    const int64_t blocks = (elements + kBlockElements - 1) / kBlockElements;
    for (int64_t first = 0; first < blocks; first += kBlocksPerProgress) {
      const int64_t count = std::min(kBlocksPerProgress, blocks - first);
      BATON_RETURN_IF_ERROR(WriteBlocks(writer, tensor, spec, first, count));
      const int64_t end = std::min(elements, (first + count) * kBlockElements);
      written_bytes_ += (end - first * kBlockElements) * TensorTypeBytes(options_.dtype);
      if (options_.progress) options_.progress(written_bytes_, total_bytes_);
    }
    return absl::OkStatus();
  }

  absl::Status WriteBlocks(SafetensorsWriter& writer, size_t tensor, const TensorSpec& spec, int64_t first,
                           int64_t count) {
    const int64_t elements = Elements(spec);
    std::mutex mutex;
    absl::Status result;
    pool_.ParallelFor(count, kBlocksPerTask, [&](int64_t task_begin, int64_t task_end) {
      std::vector<float> values(kBlockElements);
      std::vector<uint16_t> halves;
      for (int64_t block = first + task_begin; block < first + task_end; ++block) {
        const int64_t begin = block * kBlockElements;
        const auto out = absl::MakeSpan(values).first(std::min(kBlockElements, elements - begin));
        SynthWeights(spec.name, spec.shape, options_.seed, begin, out);
        const absl::Status status =
            writer.Write(tensor, begin * TensorTypeBytes(options_.dtype), Encode(out, options_.dtype, halves));
        if (status.ok()) continue;
        const std::lock_guard lock(mutex);
        result.Update(status);
        return;
      }
    });
    return result;
  }

  const SynthOptions& options_;
  ThreadPool pool_;
  int64_t total_bytes_ = 0;
  int64_t written_bytes_ = 0;
};

absl::Status WriteTextFile(const std::string& path, absl::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (file.fail()) return absl::ErrnoToStatus(errno, absl::StrCat("can't write ", path));
  return absl::OkStatus();
}

std::string IndexText(const Plan& plan) {
  nlohmann::json weight_map = nlohmann::json::object();
  for (const Shard& shard : plan.shards) {
    for (const TensorSpec& spec : shard.specs) weight_map[spec.name] = shard.name;
  }
  const nlohmann::json index = {{"metadata", {{"total_size", plan.summary.tensor_bytes}}}, {"weight_map", weight_map}};
  return index.dump(2) + "\n";
}

}  // namespace

absl::StatusOr<SynthSummary> WriteSyntheticCheckpoint(const SynthOptions& options) {
  BATON_ASSIGN_OR_RETURN(Plan plan, MakePlan(options));
  BATON_RETURN_IF_ERROR(PrepareDirectory(options, plan.summary.tensor_bytes));
  WeightWriter writer(options, plan.summary.tensor_bytes);
  for (const Shard& shard : plan.shards) BATON_RETURN_IF_ERROR(writer.WriteShard(shard));

  const auto write = [&](absl::string_view name, absl::string_view text) {
    plan.summary.files.emplace_back(name);
    return WriteTextFile(absl::StrCat(options.out, "/", name), text);
  };
  if (plan.shards.size() > 1) BATON_RETURN_IF_ERROR(write("model.safetensors.index.json", IndexText(plan)));
  if (!plan.tokenizer.empty()) BATON_RETURN_IF_ERROR(write("tokenizer.model", plan.tokenizer));
  BATON_RETURN_IF_ERROR(write("generation_config.json", plan.generation_text));
  BATON_RETURN_IF_ERROR(write("config.json", plan.config_text));
  return plan.summary;
}

}  // namespace baton
