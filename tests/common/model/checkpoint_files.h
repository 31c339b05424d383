// Checkpoint directories that tests write, bend and open.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/string_view.h"
#include "common/model/checkpoint.h"
#include "tests/temporary_directory.h"

namespace baton {

// The smallest configs with every feature of their family.
nlohmann::json TinyConfig(ModelFamily family);

// A tensor as it lies in a file.
struct FileTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

// What a config calls for, with recognisable float32 contents: element i is i / 64 + the tensor's number.
std::vector<FileTensor> TinyTensors(const nlohmann::json& config);
std::string FloatBytes(const std::vector<float>& values);

// Header length, header and data of a safetensors file; no field is checked.
std::string SafetensorsBytes(absl::string_view header, absl::string_view data);
std::string SafetensorsBytes(const std::vector<FileTensor>& tensors);

// config.json and model.safetensors.
void WriteCheckpoint(const TemporaryDirectory& directory, const nlohmann::json& config,
                     const std::vector<FileTensor>& tensors);

}  // namespace baton
