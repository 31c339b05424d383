// Weight matrices in the one layout that every matmul kernel reads: packed once, kept in a cache file, mapped by all
// workers of a host.
//
// Layout (version kPackedLayoutVersion): outputs in groups of 16, padded with zeros, one group after the other; inputs
// padded with zeros too. Within a group, for every pair of inputs (2p, 2p + 1), the 16 outputs' two weights side by
// side: the B operand of AVX512-BF16's dot product and of an AMX tile alike. packed_layout.h has the bytes,
// docs/performance.md draws them. kF32 is the exception: row-major as in a checkpoint, so that it may point into one.
//
// int8 and int8a8: codes of -127 to 127 and a float32 scale per output, its largest magnitude / 127. int4: codes for 16
// unevenly spaced values and, per output and 64 inputs, a bfloat16 scale chosen for the least squared error. Rows
// (int4: groups of 64) so small that their scale would be subnormal become zeros.
//
//   std::vector<std::byte> storage = ...;  // PackedBytes(kInt8, 9216, 2304), 64-byte aligned
//   BATON_RETURN_IF_ERROR(PackMatrix(pool, WeightPrecision::kInt8, 9216, 2304, read_row, storage.data()));
//   PackedMatrix w = {storage.data(), WeightPrecision::kInt8, 9216, 2304};
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/thread_pool.h"

namespace baton {

// How weights are stored. Activations are bfloat16 and sums float32 for all but two: kF32 (float32 throughout, SGEMM)
// and kInt8A8 (activations quantised to int8, row by row).
enum class WeightPrecision { kF32, kBf16, kInt8, kInt4, kInt8A8 };

absl::string_view WeightPrecisionName(WeightPrecision precision);  // "f32", "bf16", "int8", "int4", "int8a8"
absl::StatusOr<WeightPrecision> ParseWeightPrecision(absl::string_view name);

// Changes whenever the bytes of a packed matrix do.
inline constexpr int kPackedLayoutVersion = 1;
inline constexpr int64_t kPackedAlignment = 64;

// [outputs, inputs]. Does not own its bytes.
struct PackedMatrix {
  const std::byte* data = nullptr;  // PackedBytes(precision, outputs, inputs), kPackedAlignment-aligned (kF32: 4)
  WeightPrecision precision = WeightPrecision::kBf16;
  int64_t outputs = 0;
  int64_t inputs = 0;
};

// A multiple of kPackedAlignment, scales included.
int64_t PackedBytes(WeightPrecision precision, int64_t outputs, int64_t inputs);

// Packs, and quantises where the precision asks for it; the bytes depend on nothing but the rows. `read_row(output,
// row)` fills row: [inputs]; it is called from several threads, once for each output. INVALID_ARGUMENT that names the
// row when a value to be quantised is infinite or NaN; kF32 and kBf16 keep such values.
absl::Status PackMatrix(ThreadPool& pool, WeightPrecision precision, int64_t outputs, int64_t inputs,
                        absl::FunctionRef<void(int64_t output, absl::Span<float> row)> read_row, std::byte* to);

// One row as the kernels see it (dequantised): the input side of a tied embedding. row: [inputs].
void UnpackRow(const PackedMatrix& matrix, int64_t output, absl::Span<float> row);

}  // namespace baton
