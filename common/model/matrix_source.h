// Where in a checkpoint a matrix of the forward pass comes from, and packing it from there.
//
// Packing streams: rows that are through stop counting as this process's memory.
//
//   BATON_RETURN_IF_ERROR(PackMatrixFrom(source, pool, [&](int64_t bytes) { done += bytes; }, destination));
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/thread_pool.h"
#include "common/compute/packed_matrix.h"
#include "common/model/tensor_view.h"

namespace baton {

struct MatrixSource {
  // The tensor's, followed by "[block]" where a tensor holds several matrices. Unique in a model.
  std::string name;
  TensorView tensor;
  // The matrix is elements [first, first + outputs * inputs) of the tensor.
  int64_t first = 0;
  // In the tensor it is [inputs, outputs].
  bool transposed = false;
  // What to pack: shape and precision are set, data is null until it is packed.
  PackedMatrix* matrix = nullptr;

  int64_t elements() const { return matrix->outputs * matrix->inputs; }
  int64_t packed_bytes() const { return PackedBytes(matrix->precision, matrix->outputs, matrix->inputs); }
  // The matrix within the checkpoint.
  const std::byte* data() const { return tensor.data + first * TensorTypeBytes(tensor.type); }
  int64_t bytes() const { return elements() * TensorTypeBytes(tensor.type); }
  // row: [inputs].
  void ReadRow(int64_t output, absl::Span<float> row) const;
};

// `to`: packed_bytes(), kPackedAlignment-aligned. `done` hears of the checkpoint's bytes as they are read, bytes() in
// all, from any thread but from one at a time. INVALID_ARGUMENT naming the tensor for weights that can't be quantised.
absl::Status PackMatrixFrom(const MatrixSource& source, ThreadPool& pool, absl::FunctionRef<void(int64_t bytes)> done,
                            std::byte* to);

}  // namespace baton
