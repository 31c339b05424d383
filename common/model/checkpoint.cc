#include "common/model/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/mapped_file.h"
#include "common/base/pages.h"
#include "common/base/status_macros.h"
#include "common/model/json_object.h"

namespace baton {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;
constexpr size_t kMaxTokenizerBytes = size_t{64} << 20;
constexpr size_t kMaxIndexBytes = size_t{64} << 20;
constexpr size_t kMaxShards = 10'000;
constexpr absl::string_view kHead = "lm_head.weight";
constexpr absl::string_view kEmbedding = "model.embed_tokens.weight";

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

absl::Status CheckDirectory(const std::string& directory) {
  struct stat info {};
  if (stat(directory.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("can't open model directory ", directory));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, ": is not a directory; expected a Hugging Face checkpoint directory with config.json inside"));
  }
  return absl::OkStatus();
}

// The text of a file that may be absent: then "".
absl::StatusOr<std::string> ReadOptionalFile(const std::string& path, size_t max_bytes) {
  if (!Exists(path)) return std::string();
  return ReadFile(path, max_bytes);
}

// What a directory without safetensors holds instead, for the error message.
std::string OtherWeights(const std::string& directory) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    for (absl::string_view suffix : {".bin", ".gguf", ".pt", ".ckpt", ".h5", ".npz", ".safetensors"}) {
      if (absl::EndsWith(name, suffix)) return absl::StrCat("; found ", Quoted(name), " instead");
    }
  }
  return "";
}

// A file name within the directory and nothing else.
bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == absl::string_view::npos &&
         name.find('\0') == absl::string_view::npos;
}

// Up to three names and how many more there are.
std::string Sample(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) shown.push_back(Quoted(names[i]));
  const size_t rest = names.size() - shown.size();
  return absl::StrCat(absl::StrJoin(shown, ", "), rest > 0 ? absl::StrCat(" and ", rest, " more") : "");
}

// weight_map of an index, by shard in name order.
absl::StatusOr<std::map<std::string, std::vector<std::string>>> ParseIndex(absl::string_view text,
                                                                           absl::string_view path) {
  BATON_ASSIGN_OR_RETURN(const json index, ParseJsonObject(text, path));
  const json* weight_map = JsonFields(index, path).Get("weight_map");
  if (weight_map == nullptr || !weight_map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected an object weight_map (tensor name to file name)"));
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, file] : weight_map->items()) {
    const std::string place = absl::StrCat(path, ": weight_map ", Quoted(tensor));
    if (!file.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(place, " is a ", file.type_name(), ", expected a file name"));
    }
    const std::string& name = file.get_ref<const std::string&>();
    if (!IsPlainFileName(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, " is ", Quoted(name), ", expected the name of a file in the same directory"));
    }
    shards[name].push_back(tensor);
  }
  if (shards.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": weight_map is empty"));
  if (shards.size() > kMaxShards) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": weight_map names ", shards.size(), " files, expected at most ", kMaxShards));
  }
  return shards;
}

// Same elements, whatever the types.
bool SameValues(const TensorView& left, const TensorView& right) {
  if (left.shape != right.shape) return false;
  if (left.type == right.type) return std::memcmp(left.data, right.data, left.bytes) == 0;
  constexpr int64_t kBlock = 4096;
  std::vector<float> a(kBlock), b(kBlock);
  for (int64_t begin = 0; begin < left.elements(); begin += kBlock) {
    const size_t count = std::min(kBlock, left.elements() - begin);
    left.ToFloat(begin, absl::MakeSpan(a).first(count));
    right.ToFloat(begin, absl::MakeSpan(b).first(count));
    if (std::memcmp(a.data(), b.data(), count * sizeof(float)) != 0) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory, const ConfigOptions& options) {
  BATON_RETURN_IF_ERROR(CheckDirectory(directory));
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  const std::string config_path = absl::StrCat(directory, "/config.json");
  const std::string generation_path = absl::StrCat(directory, "/generation_config.json");
  if (!Exists(config_path)) {
    return absl::NotFoundError(absl::StrCat(
        config_path, ": is missing; expected a Hugging Face checkpoint directory with config.json inside"));
  }
  BATON_ASSIGN_OR_RETURN(checkpoint.config_text_, ReadFile(config_path, kMaxConfigBytes));
  BATON_ASSIGN_OR_RETURN(checkpoint.config_, ParseModelConfig(checkpoint.config_text_, config_path, options));
  BATON_ASSIGN_OR_RETURN(const std::string generation_text, ReadOptionalFile(generation_path, kMaxConfigBytes));
  BATON_ASSIGN_OR_RETURN(checkpoint.generation_,
                         ParseGenerationConfig(generation_text, checkpoint.config_text_, generation_path));
  BATON_ASSIGN_OR_RETURN(checkpoint.tokenizer_,
                         ReadOptionalFile(absl::StrCat(directory, "/tokenizer.model"), kMaxTokenizerBytes));

  // One whole file goes before shards, as in transformers.
  const std::string single = absl::StrCat(directory, "/model.safetensors");
  const std::string index = absl::StrCat(directory, "/model.safetensors.index.json");
  if (Exists(single)) {
    BATON_RETURN_IF_ERROR(checkpoint.OpenSingleFile(single));
  } else if (Exists(index)) {
    BATON_RETURN_IF_ERROR(checkpoint.OpenShards(index));
  } else {
    return absl::NotFoundError(absl::StrCat(
        directory, ": has neither model.safetensors nor model.safetensors.index.json", OtherWeights(directory)));
  }
  BATON_RETURN_IF_ERROR(checkpoint.Validate());
  return checkpoint;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  BATON_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const std::string& name = file.tensors()[i].name;
    const auto [existing, inserted] = index_.emplace(name, Place{files_.size(), i});
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", Quoted(name), " is also in ", files_[existing->second.file].path()));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::OpenSingleFile(const std::string& path) {
  tensors_path_ = path;
  return AddFile(path);
}

absl::Status Checkpoint::OpenShards(const std::string& index_path) {
  tensors_path_ = index_path;
  BATON_ASSIGN_OR_RETURN(const std::string text, ReadFile(index_path, kMaxIndexBytes));
  BATON_ASSIGN_OR_RETURN(const auto shards, ParseIndex(text, index_path));
  // All of them first: a shard that did not arrive explains whatever else is wrong.
  for (const auto& [name, tensors] : shards) {
    const std::string path = absl::StrCat(directory_, "/", name);
    if (Exists(path)) continue;
    return absl::NotFoundError(absl::StrCat(path, ": is missing; ", index_path, " expects it to hold ", tensors.size(),
                                            " tensors, ", Quoted(tensors.front()), " among them"));
  }
  for (const auto& [name, tensors] : shards) {
    const std::string path = absl::StrCat(directory_, "/", name);
    BATON_RETURN_IF_ERROR(AddFile(path));
    const SafetensorsFile& file = files_.back();
    for (const std::string& tensor : tensors) {
      if (file.Find(tensor) != nullptr) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", Quoted(tensor), " is missing, which ", index_path, " expects in this file"));
    }
    if (file.tensors().size() == tensors.size()) continue;
    const absl::flat_hash_set<std::string> listed(tensors.begin(), tensors.end());
    for (const TensorView& tensor : file.tensors()) {
      if (listed.contains(tensor.name)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", Quoted(tensor.name), " is not expected in this file by ", index_path));
    }
  }
  return absl::OkStatus();
}

const TensorView* Checkpoint::FindByName(absl::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &files_[found->second.file].tensors()[found->second.tensor];
}

absl::StatusOr<TensorView> Checkpoint::Find(absl::string_view name, absl::Span<const int64_t> shape) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensors_path_, ": tensor ", Quoted(name), " of shape ", ShapeText(shape), " is missing"));
  }
  const SafetensorsFile& file = files_[found->second.file];
  const TensorView& tensor = file.tensors()[found->second.tensor];
  if (absl::MakeConstSpan(tensor.shape) != shape) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", Quoted(name), " has shape ",
                                                   ShapeText(tensor.shape), ", expected ", ShapeText(shape)));
  }
  if (!IsFloat(tensor.type)) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", Quoted(name), " is of type ",
                                                   TensorTypeName(tensor.type), ", expected BF16, F16 or F32"));
  }
  return tensor;
}

absl::Status Checkpoint::Validate() const {
  const std::vector<TensorSpec> expected = ExpectedTensors(config_);
  for (const TensorSpec& spec : expected) {
    const absl::Status status = Find(spec.name, spec.shape).status();
    if (status.ok()) continue;
    return absl::Status(status.code(), absl::StrCat(status.message(), ", which is ", spec.meaning, " of config.json"));
  }
  BATON_RETURN_IF_ERROR(CheckLeftovers(expected));
  return CheckOutputHead();
}

absl::Status Checkpoint::CheckLeftovers(const std::vector<TensorSpec>& expected) const {
  absl::flat_hash_set<std::string> known;
  for (const TensorSpec& spec : expected) known.insert(spec.name);
  known.insert(std::string(kHead));
  std::vector<std::string> leftovers;
  for (const auto& [name, place] : index_) {
    if (!known.contains(name)) leftovers.push_back(name);
  }
  if (leftovers.empty()) return absl::OkStatus();
  std::sort(leftovers.begin(), leftovers.end());
  return absl::InvalidArgumentError(absl::StrCat(tensors_path_, ": tensors that config.json (",
                                                 FamilyName(config_.family), ", ", config_.num_layers,
                                                 " layers) has no place for: ", Sample(leftovers)));
}

// Some fine-tunes save the tied output head a second time; one that was untied can't be served.
absl::Status Checkpoint::CheckOutputHead() const {
  const TensorView* head = FindByName(kHead);
  if (head == nullptr) {
    if (config_.tied_embeddings) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(tensors_path_, ": tensor ", Quoted(kHead),
                                                   " is missing, though tie_word_embeddings is false in config.json"));
  }
  BATON_ASSIGN_OR_RETURN(const TensorView copy, Find(kHead, {config_.vocab_size, config_.hidden_size}));
  if (SameValues(copy, *FindByName(kEmbedding))) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(tensors_path_, ": tensor ", Quoted(kHead), " differs from ",
                                               Quoted(kEmbedding), "; Baton serves tied output heads only"));
}

int64_t Checkpoint::parameters() const {
  int64_t count = 0;
  for (const TensorSpec& spec : ExpectedTensors(config_)) count += FindByName(spec.name)->elements();
  return count;
}

int64_t Checkpoint::tensor_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_) {
    for (const TensorView& tensor : file.tensors()) bytes += tensor.bytes;
  }
  return bytes;
}

std::vector<std::string> Checkpoint::WeightFiles() const {
  std::vector<std::string> paths;
  for (const SafetensorsFile& file : files_) paths.push_back(file.path());
  return paths;
}

void Checkpoint::DropTensorPages() const {
  for (const SafetensorsFile& file : files_) {
    for (const TensorView& tensor : file.tensors()) DropPages(tensor.data, static_cast<size_t>(tensor.bytes));
  }
}

}  // namespace baton
