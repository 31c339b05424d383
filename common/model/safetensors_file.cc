#include "common/model/safetensors_file.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/json_object.h"

namespace baton {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxDimensions = 8;

std::optional<TensorType> TypeFromName(absl::string_view name) {
  for (TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kI32, TensorType::kI64}) {
    if (name == TensorTypeName(type)) return type;
  }
  return std::nullopt;
}

// Where the file's two parts are.
struct Sections {
  absl::string_view header;
  absl::string_view data;
};

absl::StatusOr<Sections> SplitSections(absl::string_view file, absl::string_view path) {
  if (file.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is ", file.size(), " bytes long, too short for a safetensors file"));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  if (length > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": header length is ", length, ", expected at most ",
                                                   kMaxSafetensorsHeaderBytes, "; is this a safetensors file?"));
  }
  if (length > file.size() - kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": header length is ", length, ", but only ",
                                                   file.size() - kLengthBytes,
                                                   " bytes follow; the file is truncated or not a safetensors file"));
  }
  return Sections{file.substr(kLengthBytes, length), file.substr(kLengthBytes + length)};
}

// A list of non-negative integers.
absl::StatusOr<std::vector<int64_t>> IntegerList(const JsonFields& fields, absl::string_view key, size_t max_size) {
  const json* list = fields.Get(key);
  if (list == nullptr) return fields.Error(key, "is missing");
  if (!list->is_array()) return fields.Error(key, absl::StrCat("is a ", list->type_name(), ", expected a list"));
  if (list->size() > max_size) {
    return fields.Error(key, absl::StrCat("has ", list->size(), " entries, expected at most ", max_size));
  }
  std::vector<int64_t> values;
  for (const json& entry : *list) {
    if (!entry.is_number_unsigned() || entry.get<uint64_t>() > uint64_t{INT64_MAX}) {
      return fields.Error(key, absl::StrCat("holds ", Quoted(entry.dump()), ", expected integers >= 0"));
    }
    values.push_back(entry.get<int64_t>());
  }
  return values;
}

// Bytes of a shape; nullopt when they overflow.
std::optional<int64_t> ShapeBytes(const std::vector<int64_t>& shape, TensorType type) {
  int64_t bytes = TensorTypeBytes(type);
  for (int64_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::StatusOr<TensorView> ParseTensor(const std::string& name, const json& entry, absl::string_view data,
                                       absl::string_view path) {
  const std::string place = absl::StrCat(path, ": tensor ", Quoted(name));
  if (!entry.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": is a ", entry.type_name(), ", expected an object"));
  }
  const JsonFields fields(entry, place);
  BATON_ASSIGN_OR_RETURN(const std::string dtype, fields.Text("dtype"));
  const std::optional<TensorType> type = TypeFromName(dtype);
  if (!type.has_value()) {
    return fields.Error("dtype", absl::StrCat("is ", Quoted(dtype), ", expected BF16, F16, F32, I32 or I64"));
  }
  TensorView tensor;
  tensor.name = name;
  tensor.type = *type;
  BATON_ASSIGN_OR_RETURN(tensor.shape, IntegerList(fields, "shape", kMaxDimensions));
  BATON_ASSIGN_OR_RETURN(const std::vector<int64_t> offsets, IntegerList(fields, "data_offsets", 2));
  if (offsets.size() != 2) return fields.Error("data_offsets", "has fewer than 2 entries");
  const auto [begin, end] = std::pair(offsets[0], offsets[1]);
  if (begin > end) return fields.Error("data_offsets", absl::StrCat("run backwards, from ", begin, " to ", end));
  if (static_cast<uint64_t>(end) > data.size()) {
    return fields.Error("data_offsets", absl::StrCat("end at ", end, ", but the file holds only ", data.size(),
                                                     " bytes of tensors; it is truncated or damaged"));
  }
  const std::optional<int64_t> bytes = ShapeBytes(tensor.shape, tensor.type);
  if (bytes != end - begin) {
    return absl::InvalidArgumentError(absl::StrCat(place, ": shape ", ShapeText(tensor.shape), " of ", dtype, " takes ",
                                                   bytes.has_value() ? absl::StrCat(*bytes) : "more than 2^63",
                                                   " bytes, but data_offsets span ", end - begin));
  }
  tensor.data = reinterpret_cast<const std::byte*>(data.data()) + begin;
  tensor.bytes = end - begin;
  return tensor;
}

// The tensors, in order of offset, cover the data exactly.
absl::Status CheckCoverage(const std::vector<TensorView>& tensors, absl::string_view data, absl::string_view path) {
  int64_t covered = 0;
  const TensorView* previous = nullptr;
  for (const TensorView& tensor : tensors) {
    const int64_t begin = tensor.data - reinterpret_cast<const std::byte*>(data.data());
    if (begin < covered) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", Quoted(tensor.name), " begins at ", begin,
                                                     " and overlaps ", Quoted(previous->name), ", which ends at ",
                                                     covered));
    }
    if (begin > covered) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": bytes ", covered, " to ", begin, " before tensor ",
                                                     Quoted(tensor.name), " belong to no tensor"));
    }
    covered = begin + tensor.bytes;
    previous = &tensor;
  }
  if (static_cast<uint64_t>(covered) != data.size()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the last tensor ends at ", covered, ", but the file holds ",
                                                   data.size(), " bytes of tensors"));
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::flat_hash_map<std::string, std::string>> ParseMetadata(const json& entry, absl::string_view path) {
  absl::flat_hash_map<std::string, std::string> metadata;
  if (!entry.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": __metadata__ is a ", entry.type_name(), ", expected an object"));
  }
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": __metadata__ ", Quoted(key), " is a ", value.type_name(), ", expected a string"));
    }
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  BATON_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  auto file = std::make_shared<MappedFile>(std::move(mapped));
  BATON_ASSIGN_OR_RETURN(SafetensorsFile result, Parse(file->view(), path));
  result.file_ = std::move(file);
  return result;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::string_view data, absl::string_view path) {
  BATON_ASSIGN_OR_RETURN(const Sections sections, SplitSections(data, path));
  BATON_ASSIGN_OR_RETURN(const json header, ParseJsonObject(sections.header, absl::StrCat(path, ": header")));
  SafetensorsFile file;
  file.path_ = std::string(path);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      BATON_ASSIGN_OR_RETURN(file.metadata_, ParseMetadata(entry, path));
      continue;
    }
    BATON_ASSIGN_OR_RETURN(TensorView tensor, ParseTensor(name, entry, sections.data, path));
    file.tensors_.push_back(std::move(tensor));
  }
  // Tensors without elements share an offset with their successor and go before it.
  std::sort(file.tensors_.begin(), file.tensors_.end(), [](const TensorView& left, const TensorView& right) {
    return std::pair(left.data, left.bytes) < std::pair(right.data, right.bytes);
  });
  BATON_RETURN_IF_ERROR(CheckCoverage(file.tensors_, sections.data, path));
  for (size_t i = 0; i < file.tensors_.size(); ++i) file.index_.emplace(file.tensors_[i].name, i);
  return file;
}

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace baton
