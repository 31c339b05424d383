// Writing one .safetensors file: the header first, then pieces of tensors in any order and from any thread. The file
// has its final name only after Finish; an unfinished one is removed.
//
//   BATON_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, specs, TensorType::kBF16));
//   BATON_RETURN_IF_ERROR(writer->Write(/*tensor=*/0, /*byte=*/0, bytes));
//   BATON_RETURN_IF_ERROR(writer->Finish());
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/file_descriptor.h"
#include "common/model/checkpoint.h"

namespace baton {

// Length, JSON and padding for tensors that follow one another in this order. `specs` have distinct names.
std::string SafetensorsHeader(absl::Span<const TensorSpec> specs, TensorType type);

class SafetensorsWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path,
                                                                   absl::Span<const TensorSpec> specs, TensorType type);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;

  // `data` goes to byte `offset` of specs[tensor]. Thread-safe for disjoint ranges.
  absl::Status Write(size_t tensor, int64_t offset, absl::string_view data);
  absl::Status Finish();

 private:
  SafetensorsWriter(std::string path, FileDescriptor file) : path_(std::move(path)), file_(std::move(file)) {}
  std::string PartialPath() const;
  absl::Status WriteAt(int64_t position, absl::string_view data);

  std::string path_;
  FileDescriptor file_;
  std::vector<int64_t> begins_;  // of each tensor, in the file
};

}  // namespace baton
