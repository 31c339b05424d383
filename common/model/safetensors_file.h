// One .safetensors file, mapped: 8 bytes little-endian header length, a JSON header of that length, then the tensors'
// bytes without gaps. Format: https://github.com/huggingface/safetensors. Also used for golden files.
//
//   BATON_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open("m/model.safetensors"));
//   const TensorView* norm = file.Find("model.norm.weight");
//
// Every tensor of an opened file lies inside the mapping and has exactly the bytes its shape and type call for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/mapped_file.h"
#include "common/model/tensor_view.h"

namespace baton {

// As in the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

class SafetensorsFile {
 public:
  //   INVALID_ARGUMENT  truncated, header length absurd or not JSON, unknown dtype, size that contradicts the shape,
  //                     offsets overlapping, out of range or leaving holes
  //   NOT_FOUND         no such file
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same from memory (tests, fuzzing); `data` must outlive the result.
  static absl::StatusOr<SafetensorsFile> Parse(absl::string_view data, absl::string_view path);

  // nullptr when there is none.
  const TensorView* Find(absl::string_view name) const;
  const std::vector<TensorView>& tensors() const { return tensors_; }  // by offset
  const absl::flat_hash_map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::shared_ptr<MappedFile> file_;
  std::vector<TensorView> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;
  absl::flat_hash_map<std::string, std::string> metadata_;
};

}  // namespace baton
