// A packed matrix with its storage, from rows in float32.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "common/compute/packed_matrix.h"

namespace baton {

inline constexpr WeightPrecision kAllPrecisions[] = {WeightPrecision::kF32, WeightPrecision::kBf16,
                                                     WeightPrecision::kInt8, WeightPrecision::kInt4,
                                                     WeightPrecision::kInt8A8};

class PackedTestMatrix {
 public:
  // weights: [outputs, inputs].
  PackedTestMatrix(WeightPrecision precision, int64_t outputs, int64_t inputs, const std::vector<float>& weights,
                   int threads = 1)
      : bytes_(PackedBytes(precision, outputs, inputs)),
        data_(static_cast<std::byte*>(std::aligned_alloc(kPackedAlignment, static_cast<size_t>(bytes_))), &std::free) {
    std::fill_n(data_.get(), bytes_, std::byte{0xa5});  // packing must not count on zeros
    ThreadPool pool({.threads = threads});
    status_ = PackMatrix(
        pool, precision, outputs, inputs,
        [&](int64_t output, absl::Span<float> row) {
          std::copy_n(weights.begin() + output * inputs, inputs, row.begin());
        },
        data_.get());
    matrix_ = {data_.get(), precision, outputs, inputs};
  }

  const PackedMatrix& matrix() const { return matrix_; }
  const absl::Status& status() const { return status_; }
  absl::Span<const std::byte> bytes() const { return {data_.get(), static_cast<size_t>(bytes_)}; }
  std::vector<float> Row(int64_t output) const {
    std::vector<float> row(matrix_.inputs);
    UnpackRow(matrix_, output, absl::MakeSpan(row));
    return row;
  }

 private:
  int64_t bytes_;
  std::unique_ptr<std::byte, decltype(&std::free)> data_;
  PackedMatrix matrix_;
  absl::Status status_;
};

}  // namespace baton
