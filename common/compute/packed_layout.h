// Where everything lies inside a packed matrix (packed_matrix.h), for the code that packs and for the kernels.
//
// A matrix is a sequence of output groups, each with a header of scales (int8, int8a8) and then blocks of 64 bytes that
// run along the inputs, so that a thread that owns some groups reads memory in one direction only:
//
//   bf16    block = 1 input pair:  word 2 * o + parity is weight (output o, input 2 * pair + parity)
//   int8    block = 2 input pairs: sign-magnitude codes; the same 32 words for each pair, stored so that two
//           byte-interleaves per 128-bit lane spread them (Int8Byte); header: a float32 scale per output
//   int4    chunk = 128 inputs: a line of scales (bfloat16, 16 outputs x 2 halves of 64 inputs), then 16 blocks of
//           4 input pairs: nibble n of word 2 * o + parity is the code of pair n; codes index kInt4Values
//   int8a8  block = 4 inputs: byte 4 * o + i, two's complement; header: a float32 scale and an int32 correction
//           per output
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/compute/packed_matrix.h"

namespace baton {

inline constexpr int64_t kGroupOutputs = 16;
inline constexpr int64_t kBlockBytes = 64;

// int4: inputs that share a scale, and inputs of a chunk.
inline constexpr int64_t kInt4ScaleInputs = 64;
inline constexpr int64_t kInt4ChunkInputs = 128;
inline constexpr int64_t kInt4ChunkBytes = kBlockBytes + kInt4ChunkInputs * kGroupOutputs / 2;

// int8a8: activations are shifted to [1, 255] for unsigned-times-signed instructions; the header's correction,
// kInt8A8Shift times the sum of an output's codes, takes that back.
inline constexpr int32_t kInt8A8Shift = 128;

// What a 4-bit code stands for, times the group's scale. Zero is exact, all are exact in bfloat16, and the steps widen
// outwards, where weights are rare. Least squared error on normally distributed weights, 64 to a scale: 8.0 % of their
// root mean square, where even steps give 9.0 % (and this table 7.3 % with 32 to a scale, for 6 % more bytes).
inline constexpr std::array<int8_t, 16> kInt4Values = {-127, -98, -77, -61, -47, -34, -22, -11,
                                                       0,    11,  23,  35,  49,  64,  82,  106};
inline constexpr int kInt4Zero = 8;

constexpr int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

constexpr int64_t GroupCount(int64_t outputs) { return (outputs + kGroupOutputs - 1) / kGroupOutputs; }

// Inputs with the zeros that fill up the last block, chunk or AMX tile.
constexpr int64_t PaddedInputs(WeightPrecision precision, int64_t inputs) {
  switch (precision) {
    case WeightPrecision::kF32:
      return inputs;
    case WeightPrecision::kBf16:
    case WeightPrecision::kInt8:
      return RoundUp(inputs, 32);
    case WeightPrecision::kInt4:
      return RoundUp(inputs, kInt4ChunkInputs);
    case WeightPrecision::kInt8A8:
      return RoundUp(inputs, 64);
  }
  return inputs;
}

// Bytes before a group's first block.
constexpr int64_t GroupHeaderBytes(WeightPrecision precision) {
  if (precision == WeightPrecision::kInt8) return kGroupOutputs * 4;
  if (precision == WeightPrecision::kInt8A8) return kGroupOutputs * 8;
  return 0;
}

constexpr int64_t GroupBytes(WeightPrecision precision, int64_t inputs) {
  const int64_t padded = PaddedInputs(precision, inputs);
  switch (precision) {
    case WeightPrecision::kF32:
      return kGroupOutputs * inputs * 4;
    case WeightPrecision::kBf16:
      return kGroupOutputs * padded * 2;
    case WeightPrecision::kInt4:
      return padded / kInt4ChunkInputs * kInt4ChunkBytes;
    case WeightPrecision::kInt8:
    case WeightPrecision::kInt8A8:
      return GroupHeaderBytes(precision) + kGroupOutputs * padded;
  }
  return 0;
}

// Offset of a code in an int8 group's blocks.
constexpr int64_t Int8Byte(int64_t output, int64_t input) {
  const int64_t pair = input / 2;
  const int64_t word = 2 * output + input % 2;
  return pair / 2 * kBlockBytes + word / 8 * 16 + pair % 2 * 8 + word % 8;
}

// Offset of the byte with a code's nibble in an int4 group, and the nibble's shift.
constexpr int64_t Int4Byte(int64_t output, int64_t input) {
  const int64_t in_chunk = input % kInt4ChunkInputs;
  const int64_t word = 2 * output + input % 2;
  return input / kInt4ChunkInputs * kInt4ChunkBytes + kBlockBytes + in_chunk / 8 * kBlockBytes + word * 2 +
         in_chunk % 8 / 4;
}
constexpr int Int4Shift(int64_t input) { return static_cast<int>(input % 4 / 2 * 4); }

// Offset of the bfloat16 scale of a code.
constexpr int64_t Int4ScaleByte(int64_t output, int64_t input) {
  return input / kInt4ChunkInputs * kInt4ChunkBytes +
         (input % kInt4ChunkInputs / kInt4ScaleInputs * kGroupOutputs + output) * 2;
}

constexpr int64_t Int8A8Byte(int64_t output, int64_t input) { return input / 4 * kBlockBytes + output * 4 + input % 4; }

}  // namespace baton
