#include "tests/golden/golden_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"

namespace baton {

absl::StatusOr<GoldenFile> GoldenFile::Open(const std::string& path, const ModelConfig& config) {
  BATON_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::Open(path));
  GoldenFile golden(std::move(opened));
  for (const TensorView& tensor : golden.file_.tensors()) {
    absl::string_view label = tensor.name;
    if (absl::ConsumeSuffix(&label, ".tokens")) {
      BATON_RETURN_IF_ERROR(golden.AddPrompt(std::string(label), config));
    }
  }
  if (golden.prompts_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a golden file: it has no tensor named *.tokens"));
  }
  std::sort(golden.prompts_.begin(), golden.prompts_.end(), [](const GoldenPrompt& a, const GoldenPrompt& b) {
    return std::make_pair(a.tokens.size(), a.label) < std::make_pair(b.tokens.size(), b.label);
  });
  return golden;
}

absl::Status GoldenFile::AddPrompt(const std::string& label, const ModelConfig& config) {
  GoldenPrompt prompt;
  prompt.label = label;
  BATON_ASSIGN_OR_RETURN(prompt.tokens, TokenIds(label + ".tokens", config));
  if (prompt.tokens.empty()) return absl::InvalidArgumentError(absl::StrCat(path(), ": ", label, " is empty"));
  if (Has(label + ".greedy")) {
    BATON_ASSIGN_OR_RETURN(prompt.greedy, TokenIds(label + ".greedy", config));
    BATON_ASSIGN_OR_RETURN(prompt.greedy_margin,
                           Floats(label + ".greedy_margin", static_cast<int64_t>(prompt.greedy.size())));
  }
  const int64_t needed = static_cast<int64_t>(prompt.tokens.size() + prompt.greedy.size());
  if (needed > config.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": ", label, " needs ", needed, " tokens of context, the model has ", config.max_tokens));
  }
  prompts_.push_back(std::move(prompt));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> GoldenFile::TokenIds(absl::string_view name, const ModelConfig& config) const {
  const TensorView* tensor = file_.Find(name);
  if (tensor == nullptr || tensor->type != TensorType::kI32) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": no I32 tensor ", name));
  }
  std::vector<int32_t> ids(tensor->elements());
  if (!ids.empty()) std::memcpy(ids.data(), tensor->data, tensor->bytes);
  for (const int32_t id : ids) {
    if (id < 0 || id >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(path(), ": ", name, " holds token ", id, ", but the model's ",
                                                     config.vocab_size,
                                                     " tokens end before; is this its golden file?"));
    }
  }
  return ids;
}

absl::StatusOr<std::vector<float>> GoldenFile::Floats(absl::string_view name, int64_t elements) const {
  const TensorView* tensor = file_.Find(name);
  if (tensor == nullptr || tensor->type != TensorType::kF32) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": no F32 tensor ", name));
  }
  if (tensor->elements() != elements) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": ", name, " has shape ", ShapeText(tensor->shape), ", ",
                                                   elements, " elements expected; is this the model's golden file?"));
  }
  std::vector<float> values(elements);
  tensor->ToFloat(0, absl::MakeSpan(values));
  return values;
}

}  // namespace baton
