// A named array inside somebody else's bytes, usually a mapped safetensors file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace baton {

enum class TensorType { kF32, kF16, kBF16, kI32, kI64 };

int64_t TensorTypeBytes(TensorType type);
// "F32", "F16", "BF16", "I32", "I64".
absl::string_view TensorTypeName(TensorType type);
bool IsFloat(TensorType type);
// "[2048, 2304]"; "[]" for a scalar.
std::string ShapeText(absl::Span<const int64_t> shape);

// Bytes in the mapping; little-endian, row-major, not necessarily aligned.
struct TensorView {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;

  int64_t elements() const { return bytes / TensorTypeBytes(type); }
  // Elements [begin, begin + out.size()) as float32 (exact for all three float types, rounded for integers).
  void ToFloat(int64_t begin, absl::Span<float> out) const;
};

}  // namespace baton
