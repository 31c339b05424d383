#include "common/compute/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "common/compute/cpu_isa.h"
#include "common/compute/matmul_kernels.h"

namespace baton {
namespace {

// Outputs of one SGEMM call: fixed, so that its shapes (and bits) do not depend on the number of threads.
constexpr int64_t kSgemmOutputs = 256;
// What kernels take at once, at most.
constexpr int64_t kGroupsAtOnce = 4;
constexpr int64_t kRowsAtOnce = 8;
constexpr int64_t kAmxRowsAtOnce = 32;
// A block has at least this many multiply-adds: some microseconds.
constexpr int64_t kBlockWork = int64_t{1} << 18;
// Blocks per thread, so that a slow thread holds nobody up.
constexpr int64_t kBlocksPerThread = 8;
// Activations of a block pass by once per tile column: they should stay in the second-level cache.
constexpr int64_t kBlockActivationBytes = int64_t{512} << 10;
// Rows that are worth another pass over the weights.
constexpr int64_t kLeastBlockRows = 64;
// AMX multiplies so fast that expanding codes pays off for many rows only.
constexpr int64_t kAmxBlockRows = 512;

// Activations of a call, owned by the calling thread.
thread_local MatMulScratch activation_scratch;
// Whatever a kernel expands, owned by the thread that runs it.
thread_local MatMulScratch kernel_scratch;

bool UsesPairs(WeightPrecision precision) {
  return precision != WeightPrecision::kInt8A8 && CurrentIsa() >= Isa::kAvx512Bf16;
}

int64_t ActivationBytes(WeightPrecision precision) {
  if (precision == WeightPrecision::kInt8A8) return 1;
  return UsesPairs(precision) ? 2 : 4;
}

// Row r of the activations in the kernel's format.
void PrepareRow(const MatMulTask& task, const MatMulRows& x, int64_t r, std::byte* rows, float* row_scales) {
  const float* from = x.data + r * x.stride;
  const int64_t inputs = task.weights.inputs;
  const int64_t padded = task.padded_inputs;
  std::byte* to = rows + r * padded * ActivationBytes(task.weights.precision);
  if (task.weights.precision == WeightPrecision::kInt8A8) {
    return QuantizeRow(from, inputs, padded, reinterpret_cast<uint8_t*>(to), row_scales + r);
  }
#if defined(__x86_64__)
  if (UsesPairs(task.weights.precision)) {
    return PairRowAvx512Bf16(from, inputs, padded, reinterpret_cast<uint32_t*>(to));
  }
#endif
  float* row = reinterpret_cast<float*>(to);
  std::copy(from, from + inputs, row);
  std::fill(row + inputs, row + padded, 0.0f);
}

MatMulTask Prepare(ThreadPool* pool, const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y,
                   int64_t y_stride) {
  MatMulTask task;
  task.weights = weights;
  task.group_bytes = GroupBytes(weights.precision, weights.inputs);
  task.padded_inputs = PaddedInputs(weights.precision, weights.inputs);
  task.bias = bias;
  task.y = y;
  task.y_stride = y_stride;
  const int64_t scale_bytes = weights.precision == WeightPrecision::kInt8A8 ? RoundUp(x.rows * 4, kPackedAlignment) : 0;
  std::byte* scratch =
      activation_scratch.AtLeast(scale_bytes + x.rows * task.padded_inputs * ActivationBytes(weights.precision));
  float* row_scales = reinterpret_cast<float*>(scratch);
  std::byte* rows = scratch + scale_bytes;
  task.row_scales = row_scales;
  task.x = rows;
  const auto prepare = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) PrepareRow(task, x, r, rows, row_scales);
  };
  constexpr int64_t kElementsPerBlock = 1 << 16;
  if (pool == nullptr || x.rows * weights.inputs <= 2 * kElementsPerBlock) {
    prepare(0, x.rows);
  } else {
    pool->ParallelFor(x.rows, std::max<int64_t>(1, kElementsPerBlock / weights.inputs), prepare);
  }
  return task;
}

void RunBlock(const MatMulTask& task, const MatMulBlock& block) {
  if (task.weights.precision == WeightPrecision::kInt8A8) return MatMulInt8A8(task, block);
#if defined(__x86_64__)
  if (CurrentIsa() == Isa::kAmx) return MatMulAmx(task, block, kernel_scratch);
  if (UsesPairs(task.weights.precision)) return MatMulAvx512Bf16(task, block);
#endif
  MatMulLanes(task, block, kernel_scratch);
}

// A product cut into blocks of groups x rows; the blocks of one set of rows follow one another.
struct Division {
  int64_t groups;  // of a block
  int64_t rows;
  int64_t group_blocks;
  int64_t row_blocks;
};

Division Divide(const MatMulTask& task, int64_t rows, int threads) {
  const int64_t groups = GroupCount(task.weights.outputs);
  const int64_t row_bytes = task.padded_inputs * ActivationBytes(task.weights.precision);
  const int64_t enough_blocks = threads == 1 ? 1 : threads * kBlocksPerThread;
  Division division;
  const int64_t cached_rows =
      CurrentIsa() == Isa::kAmx ? kAmxBlockRows : std::max(kLeastBlockRows, kBlockActivationBytes / row_bytes);
  division.row_blocks = (rows + cached_rows - 1) / cached_rows;
  // Few outputs and many rows: the rows are shared out too, as long as that leaves plenty to share an expansion.
  const int64_t columns = (groups + kGroupsAtOnce - 1) / kGroupsAtOnce;
  while (division.row_blocks * columns < enough_blocks && rows / (division.row_blocks + 1) >= kLeastBlockRows) {
    ++division.row_blocks;
  }
  division.rows = RoundUp((rows + division.row_blocks - 1) / division.row_blocks,
                          CurrentIsa() == Isa::kAmx ? kAmxRowsAtOnce : kRowsAtOnce);
  division.row_blocks = (rows + division.rows - 1) / division.rows;
  const int64_t column_work = division.rows * task.padded_inputs * kGroupOutputs * kGroupsAtOnce;
  const int64_t least_columns = (kBlockWork + column_work - 1) / column_work;
  const int64_t shared_columns = columns * division.row_blocks / enough_blocks;
  division.groups = std::max({int64_t{1}, least_columns, shared_columns}) * kGroupsAtOnce;
  division.group_blocks = (groups + division.groups - 1) / division.groups;
  return division;
}

MatMulBlock BlockAt(const Division& division, const MatMulTask& task, int64_t rows, int64_t index) {
  MatMulBlock block;
  block.first_group = index % division.group_blocks * division.groups;
  block.groups = std::min(division.groups, GroupCount(task.weights.outputs) - block.first_group);
  block.first_row = index / division.group_blocks * division.rows;
  block.rows = std::min(division.rows, rows - block.first_row);
  return block;
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
  const Division division = Divide(task, x.rows, pool.threads());
  pool.ParallelFor(division.group_blocks * division.row_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) RunBlock(task, BlockAt(division, task, x.rows, i));
  });
}

void MatMulOnThisThread(const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y,
                        int64_t y_stride) {
  if (x.rows == 0) return;
  if (weights.precision == WeightPrecision::kF32) return MatMulF32(weights, bias, x, 0, weights.outputs, y, y_stride);
  const MatMulTask task = Prepare(nullptr, weights, bias, x, y, y_stride);
  const Division division = Divide(task, x.rows, 1);
  for (int64_t i = 0; i < division.group_blocks * division.row_blocks; ++i) {
    RunBlock(task, BlockAt(division, task, x.rows, i));
  }
}

}  // namespace baton
