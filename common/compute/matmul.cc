#include "common/compute/matmul.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#include "common/compute/bf16.h"
#include "common/compute/matmul_task.h"

namespace baton {
namespace {

// bfloat16 of every int8 code (sign-magnitude) and every int4 code.
const uint16_t* Int8Bf16Values() {
  static const std::array<uint16_t, 256> values = [] {
    std::array<uint16_t, 256> all;
    for (int code = 0; code < 256; ++code) {
      all[code] = FloatToBf16(static_cast<float>(code & 0x80 ? -(code & 0x7f) : code));
    }
    return all;
  }();
  return values.data();
}

const uint16_t* Int4Bf16Values() {
  static const std::array<uint16_t, 16> values = [] {
    std::array<uint16_t, 16> all;
    for (int code = 0; code < 16; ++code) all[code] = FloatToBf16(kInt4Values[code]);
    return all;
  }();
  return values.data();
}

}  // namespace
}  // namespace baton

#define BATON_ISA_BODY "common/compute/matmul_lanes.inc"
#include "common/compute/each_isa.inc"

namespace baton {
namespace {

// Outputs of one SGEMM call: fixed, so that its shapes (and bits) do not depend on the number of threads.
constexpr int64_t kSgemmOutputs = 256;
// Work of one block handed to a thread, in multiply-adds: some tens of microseconds.
constexpr int64_t kBlockWork = int64_t{1} << 20;

// Activations of a call, owned by the calling thread.
thread_local MatMulScratch activation_scratch;
// Whatever a kernel expands, owned by the thread that runs it.
thread_local MatMulScratch kernel_scratch;

// Fills row r of the activations: float32, padded with zeros; int8a8: codes shifted by kInt8A8Shift, with a scale.
void PrepareRow(const MatMulTask& task, const MatMulRows& x, int64_t r, std::byte* to, float* row_scales) {
  const float* from = x.data + r * x.stride;
  const int64_t inputs = task.weights.inputs;
  if (task.weights.precision != WeightPrecision::kInt8A8) {
    float* row = reinterpret_cast<float*>(to) + r * task.padded_inputs;
    std::copy(from, from + inputs, row);
    std::fill(row + inputs, row + task.padded_inputs, 0.0f);
    return;
  }
  float magnitude = 0;
  bool finite = true;
  for (int64_t i = 0; i < inputs; ++i) {
    finite &= std::isfinite(from[i]);
    magnitude = std::max(magnitude, std::fabs(from[i]));
  }
  uint8_t* row = reinterpret_cast<uint8_t*>(to) + r * task.padded_inputs;
  if (!finite) {  // as a float32 product would: nothing but NaN comes of it
    std::fill(row, row + task.padded_inputs, static_cast<uint8_t>(kInt8A8Shift));
    row_scales[r] = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const float inverse = magnitude >= std::numeric_limits<float>::min() ? 127.0f / magnitude : 0.0f;
  for (int64_t i = 0; i < inputs; ++i) {
    const int code = std::clamp(static_cast<int>(std::nearbyint(from[i] * inverse)), -127, 127);
    row[i] = static_cast<uint8_t>(code + kInt8A8Shift);
  }
  std::fill(row + inputs, row + task.padded_inputs, static_cast<uint8_t>(kInt8A8Shift));
  row_scales[r] = magnitude / 127.0f;
}

MatMulTask Prepare(ThreadPool* pool, const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y,
                   int64_t y_stride) {
  MatMulTask task;
  task.weights = weights;
  task.group_bytes = GroupBytes(weights.precision, weights.inputs);
  task.padded_inputs = PaddedInputs(weights.precision, weights.inputs);
  task.rows = x.rows;
  task.bias = bias;
  task.y = y;
  task.y_stride = y_stride;
  const int64_t row_scale_bytes = RoundUp(x.rows * 4, kPackedAlignment);
  std::byte* scratch = activation_scratch.AtLeast(row_scale_bytes + x.rows * task.padded_inputs * 4);
  float* row_scales = reinterpret_cast<float*>(scratch);
  std::byte* rows = scratch + row_scale_bytes;
  task.row_scales = row_scales;
  task.x = rows;
  const auto prepare = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) PrepareRow(task, x, r, rows, row_scales);
  };
  constexpr int64_t kElementsPerBlock = 1 << 16;
  if (pool == nullptr || x.rows * weights.inputs <= kElementsPerBlock) {
    prepare(0, x.rows);
  } else {
    pool->ParallelFor(x.rows, std::max<int64_t>(1, kElementsPerBlock / weights.inputs), prepare);
  }
  return task;
}

void RunGroups(const MatMulTask& task, int64_t begin, int64_t end) {
  if (task.weights.precision == WeightPrecision::kInt8A8) {
    BATON_PICK_ISA(MatMulGroupsInt8A8)(task, begin, end, kernel_scratch);
  } else {
    BATON_PICK_ISA(MatMulGroups)(task, begin, end, kernel_scratch);
  }
}

}  // namespace

MatMulScratch::~MatMulScratch() { std::free(data_); }

std::byte* MatMulScratch::AtLeast(int64_t bytes) {
  if (bytes <= bytes_) return data_;
  std::free(data_);
  bytes_ = RoundUp(bytes, 4096);
  data_ = static_cast<std::byte*>(std::aligned_alloc(4096, static_cast<size_t>(bytes_)));
  if (data_ == nullptr) throw std::bad_alloc();
  return data_;
}

void MatMul(ThreadPool& pool, const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y,
            int64_t y_stride) {
  if (x.rows == 0) return;
  if (weights.precision == WeightPrecision::kF32) {
    const int64_t blocks = (weights.outputs + kSgemmOutputs - 1) / kSgemmOutputs;
    pool.ParallelFor(blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        MatMulF32(weights, bias, x, b * kSgemmOutputs, std::min(weights.outputs, (b + 1) * kSgemmOutputs), y, y_stride);
      }
    });
    return;
  }
  const MatMulTask task = Prepare(&pool, weights, bias, x, y, y_stride);
  const int64_t groups_per_block =
      std::max<int64_t>(2, kBlockWork / (x.rows * task.padded_inputs * kGroupOutputs) / 2 * 2);
  pool.ParallelFor(GroupCount(weights.outputs), groups_per_block,
                   [&](int64_t begin, int64_t end) { RunGroups(task, begin, end); });
}

void MatMulOnThisThread(const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y,
                        int64_t y_stride) {
  if (x.rows == 0) return;
  if (weights.precision == WeightPrecision::kF32) return MatMulF32(weights, bias, x, 0, weights.outputs, y, y_stride);
  RunGroups(Prepare(nullptr, weights, bias, x, y, y_stride), 0, GroupCount(weights.outputs));
}

}  // namespace baton
