#include "common/model/matrix_source.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/pages.h"
#include "common/model/json_object.h"

namespace baton {
namespace {

// Bytes of rows after which their pages are let go and progress is shown.
constexpr int64_t kStrideBytes = int64_t{4} << 20;

}  // namespace

void MatrixSource::ReadRow(int64_t output, absl::Span<float> row) const {
  if (!transposed) return tensor.ToFloat(first + output * matrix->inputs, row);
  for (size_t i = 0; i < row.size(); ++i) {
    tensor.ToFloat(first + static_cast<int64_t>(i) * matrix->outputs + output, row.subspan(i, 1));
  }
}

absl::Status PackMatrixFrom(const MatrixSource& source, ThreadPool& pool, absl::FunctionRef<void(int64_t bytes)> done,
                            std::byte* to) {
  const PackedMatrix& matrix = *source.matrix;
  const int64_t row_bytes = source.bytes() / matrix.outputs;
  const int64_t stride = std::max<int64_t>(1, kStrideBytes / row_bytes);
  std::mutex mutex;
  int64_t reported = 0;
  const auto read_row = [&](int64_t output, absl::Span<float> row) {
    source.ReadRow(output, row);
    if (source.transposed || (output + 1) % stride != 0) return;
    // A neighbour that another thread has yet to read is read from the page cache again.
    DropPages(source.data() + (output + 1 - stride) * row_bytes, static_cast<size_t>(stride * row_bytes));
    const std::lock_guard<std::mutex> lock(mutex);
    reported += stride * row_bytes;
    done(stride * row_bytes);
  };
  const absl::Status status = PackMatrix(pool, matrix.precision, matrix.outputs, matrix.inputs, read_row, to);
  if (!status.ok())
    return absl::Status(status.code(), absl::StrCat("tensor ", Quoted(source.name), ": ", status.message()));
  DropPages(source.data(), static_cast<size_t>(source.bytes()));
  if (reported < source.bytes()) done(source.bytes() - reported);
  return absl::OkStatus();
}

}  // namespace baton
