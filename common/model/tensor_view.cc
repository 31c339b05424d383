#include "common/model/tensor_view.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

template <typename T>
T LoadElement(const std::byte* data, size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// IEEE binary16 to binary32, exact; subnormals, infinities and NaNs included.
float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1Fu;
  const uint32_t mantissa = half & 0x3FFu;
  if (exponent == 0x1F) return BitsToFloat(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) return BitsToFloat(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

}  // namespace

int64_t TensorTypeBytes(TensorType type) {
  switch (type) {
    case TensorType::kF16:
    case TensorType::kBF16:
      return 2;
    case TensorType::kF32:
    case TensorType::kI32:
      return 4;
    case TensorType::kI64:
      return 8;
  }
  return 1;
}

absl::string_view TensorTypeName(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return "F32";
    case TensorType::kF16:
      return "F16";
    case TensorType::kBF16:
      return "BF16";
    case TensorType::kI32:
      return "I32";
    case TensorType::kI64:
      return "I64";
  }
  return "unknown";
}

bool IsFloat(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

std::string ShapeText(absl::Span<const int64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

void TensorView::ToFloat(int64_t begin, absl::Span<float> out) const {
  const int64_t count = static_cast<int64_t>(out.size());
  BATON_CHECK(begin >= 0 && begin <= elements() && count <= elements() - begin);
  if (out.empty()) return;
  const std::byte* source = data + begin * TensorTypeBytes(type);
  switch (type) {
    case TensorType::kF32:
      std::memcpy(out.data(), source, out.size() * sizeof(float));
      return;
    case TensorType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = HalfToFloat(LoadElement<uint16_t>(source, i));
      return;
    case TensorType::kBF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = BitsToFloat(uint32_t{LoadElement<uint16_t>(source, i)} << 16);
      return;
    case TensorType::kI32:
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(LoadElement<int32_t>(source, i));
      return;
    case TensorType::kI64:
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(LoadElement<int64_t>(source, i));
      return;
  }
}

}  // namespace baton
