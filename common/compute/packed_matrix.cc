#include "common/compute/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/compute/bf16.h"
#include "common/compute/int4_quantization.h"
#include "common/compute/packed_layout.h"

namespace baton {
namespace {

constexpr WeightPrecision kPrecisions[] = {WeightPrecision::kF32, WeightPrecision::kBf16, WeightPrecision::kInt8,
                                           WeightPrecision::kInt4, WeightPrecision::kInt8A8};

template <typename T>
void Store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(value));
}

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// The functions below fill one group, zeroed before. rows: [16, padded inputs], zero where there is no weight.

void PackBf16(const float* rows, int64_t padded, std::byte* group) {
  for (int64_t input = 0; input < padded; input += 2) {
    uint16_t block[2 * kGroupOutputs];
    for (int64_t o = 0; o < kGroupOutputs; ++o) {
      block[2 * o] = FloatToBf16(rows[o * padded + input]);
      block[2 * o + 1] = FloatToBf16(rows[o * padded + input + 1]);
    }
    std::memcpy(group + input / 2 * kBlockBytes, block, sizeof(block));
  }
}

// 0 for a row of zeros.
float Int8Scale(const float* row, int64_t padded) {
  float magnitude = 0;
  for (int64_t i = 0; i < padded; ++i) magnitude = std::max(magnitude, std::fabs(row[i]));
  const float scale = magnitude / 127.0f;
  return scale < std::numeric_limits<float>::min() ? 0.0f : scale;
}

// Two's complement.
int Int8Code(float weight, float inverse_scale) {
  return std::clamp(static_cast<int>(std::nearbyint(weight * inverse_scale)), -127, 127);
}

void PackInt8(const float* rows, int64_t padded, std::byte* group) {
  std::byte* codes = group + GroupHeaderBytes(WeightPrecision::kInt8);
  for (int64_t o = 0; o < kGroupOutputs; ++o) {
    const float* row = rows + o * padded;
    const float scale = Int8Scale(row, padded);
    if (scale == 0) continue;
    Store(group + o * 4, scale);
    const float inverse = 1.0f / scale;
    for (int64_t i = 0; i < padded; ++i) {
      const int code = Int8Code(row[i], inverse);
      codes[Int8Byte(o, i)] = static_cast<std::byte>(code < 0 ? 0x80 - code : code);
    }
  }
}

void PackInt8A8(const float* rows, int64_t padded, std::byte* group) {
  std::byte* codes = group + GroupHeaderBytes(WeightPrecision::kInt8A8);
  for (int64_t o = 0; o < kGroupOutputs; ++o) {
    const float* row = rows + o * padded;
    const float scale = Int8Scale(row, padded);
    if (scale == 0) continue;
    Store(group + o * 4, scale);
    const float inverse = 1.0f / scale;
    int32_t sum = 0;
    for (int64_t i = 0; i < padded; ++i) {
      const int code = Int8Code(row[i], inverse);
      sum += code;
      codes[Int8A8Byte(o, i)] = static_cast<std::byte>(code);
    }
    Store(group + (kGroupOutputs + o) * 4, sum * kInt8A8Shift);
  }
}

void PackInt4(const float* rows, int64_t padded, std::byte* group) {
  for (int64_t o = 0; o < kGroupOutputs; ++o) {
    for (int64_t first = 0; first < padded; first += kInt4ScaleInputs) {
      const Int4Group quantized = QuantizeInt4(rows + o * padded + first);
      Store(group + Int4ScaleByte(o, first), quantized.scale);
      for (int64_t i = 0; i < kInt4ScaleInputs; ++i) {
        group[Int4Byte(o, first + i)] |= static_cast<std::byte>(quantized.codes[i] << Int4Shift(first + i));
      }
    }
  }
}

bool AllFinite(const float* row, int64_t count) {
  return std::all_of(row, row + count, [](float value) { return std::isfinite(value); });
}

}  // namespace

absl::string_view WeightPrecisionName(WeightPrecision precision) {
  switch (precision) {
    case WeightPrecision::kF32:
      return "f32";
    case WeightPrecision::kBf16:
      return "bf16";
    case WeightPrecision::kInt8:
      return "int8";
    case WeightPrecision::kInt4:
      return "int4";
    case WeightPrecision::kInt8A8:
      return "int8a8";
  }
  return "unknown";
}

absl::StatusOr<WeightPrecision> ParseWeightPrecision(absl::string_view name) {
  for (const WeightPrecision precision : kPrecisions) {
    if (WeightPrecisionName(precision) == name) return precision;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown weight precision \"", name, "\": use f32, bf16, int8, int4 or int8a8"));
}

int64_t PackedBytes(WeightPrecision precision, int64_t outputs, int64_t inputs) {
  if (precision == WeightPrecision::kF32) return RoundUp(outputs * inputs * 4, kPackedAlignment);
  return GroupCount(outputs) * GroupBytes(precision, inputs);
}

absl::Status PackMatrix(ThreadPool& pool, WeightPrecision precision, int64_t outputs, int64_t inputs,
                        absl::FunctionRef<void(int64_t output, absl::Span<float> row)> read_row, std::byte* to) {
  const bool exact = precision == WeightPrecision::kF32 || precision == WeightPrecision::kBf16;
  const int64_t padded = PaddedInputs(precision, inputs);
  const int64_t group_bytes = GroupBytes(precision, inputs);
  std::atomic<int64_t> first_bad{outputs};
  pool.ParallelFor(GroupCount(outputs), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> rows(kGroupOutputs * padded);
    for (int64_t g = begin; g < end; ++g) {
      const int64_t count = std::min(kGroupOutputs, outputs - g * kGroupOutputs);
      std::fill(rows.begin(), rows.end(), 0.0f);
      for (int64_t o = 0; o < count; ++o) {
        float* row = rows.data() + o * padded;
        read_row(g * kGroupOutputs + o, absl::MakeSpan(row, static_cast<size_t>(inputs)));
        if (exact || AllFinite(row, inputs)) continue;
        int64_t lowest = first_bad.load();
        while (g * kGroupOutputs + o < lowest && !first_bad.compare_exchange_weak(lowest, g * kGroupOutputs + o)) {
        }
        std::fill(row, row + inputs, 0.0f);
      }
      std::byte* group = to + g * group_bytes;
      if (precision == WeightPrecision::kF32) {
        std::memcpy(group, rows.data(), static_cast<size_t>(count * inputs) * sizeof(float));
        continue;
      }
      std::memset(group, 0, static_cast<size_t>(group_bytes));
      if (precision == WeightPrecision::kBf16) PackBf16(rows.data(), padded, group);
      if (precision == WeightPrecision::kInt8) PackInt8(rows.data(), padded, group);
      if (precision == WeightPrecision::kInt4) PackInt4(rows.data(), padded, group);
      if (precision == WeightPrecision::kInt8A8) PackInt8A8(rows.data(), padded, group);
    }
  });
  if (precision == WeightPrecision::kF32) {
    const int64_t used = outputs * inputs * 4;
    std::memset(to + used, 0, static_cast<size_t>(PackedBytes(precision, outputs, inputs) - used));
  }
  if (first_bad < outputs) {
    return absl::InvalidArgumentError(absl::StrCat("row ", first_bad.load(), " has an infinite or NaN weight, which ",
                                                   std::string(WeightPrecisionName(precision)), " cannot hold"));
  }
  return absl::OkStatus();
}

void UnpackRow(const PackedMatrix& matrix, int64_t output, absl::Span<float> row) {
  if (matrix.precision == WeightPrecision::kF32) {
    std::memcpy(row.data(), matrix.data + output * matrix.inputs * 4, row.size() * sizeof(float));
    return;
  }
  const std::byte* group = matrix.data + output / kGroupOutputs * GroupBytes(matrix.precision, matrix.inputs);
  const std::byte* blocks = group + GroupHeaderBytes(matrix.precision);
  const int64_t o = output % kGroupOutputs;
  const int64_t inputs = matrix.inputs;
  switch (matrix.precision) {
    case WeightPrecision::kF32:
      return;
    case WeightPrecision::kBf16:
      for (int64_t i = 0; i < inputs; ++i) {
        row[i] = Bf16ToFloat(Load<uint16_t>(blocks + i / 2 * kBlockBytes + (2 * o + i % 2) * 2));
      }
      return;
    case WeightPrecision::kInt8: {
      const float scale = Load<float>(group + o * 4);
      for (int64_t i = 0; i < inputs; ++i) {
        const int code = static_cast<int>(blocks[Int8Byte(o, i)]);
        row[i] = static_cast<float>(code & 0x80 ? -(code & 0x7f) : code) * scale;
      }
      return;
    }
    case WeightPrecision::kInt4:
      for (int64_t i = 0; i < inputs; ++i) {
        const int code = static_cast<int>(group[Int4Byte(o, i)]) >> Int4Shift(i) & 15;
        row[i] = static_cast<float>(kInt4Values[code]) * Bf16ToFloat(Load<uint16_t>(group + Int4ScaleByte(o, i)));
      }
      return;
    case WeightPrecision::kInt8A8: {
      const float scale = Load<float>(group + o * 4);
      for (int64_t i = 0; i < inputs; ++i) row[i] = static_cast<float>(Load<int8_t>(blocks + Int8A8Byte(o, i))) * scale;
      return;
    }
  }
}

}  // namespace baton
