#include "bench/machine_limits.h"

#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/best_rate.h"
#include "bench/peak_kernels.h"
#include "common/base/machine_memory.h"

namespace baton {
namespace {

// Results go here, so that no kernel is optimised away.
std::atomic<uint64_t> sink{0};

int64_t CacheBytes() { return std::max<int64_t>(0, sysconf(_SC_LEVEL3_CACHE_SIZE)); }

int64_t DefaultBufferBytes() {
  return std::min(std::max(4 * CacheBytes(), int64_t{256} << 20), ReadMachineMemory().bytes / 8);
}

constexpr int64_t kReadBlock = int64_t{2} << 20;

// Every page written: untouched ones would all be the same zero page. Empty when there is no memory.
PageBlock MakeReadBuffer(ThreadPool& pool, int64_t wanted_bytes) {
  const int64_t blocks = std::max<int64_t>(1, wanted_bytes / kReadBlock);
  absl::StatusOr<PageBlock> buffer = PageBlock::Allocate(static_cast<size_t>(blocks * kReadBlock));
  if (!buffer.ok()) return PageBlock();
  pool.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end) {
    std::fill(buffer->data() + begin * kReadBlock, buffer->data() + end * kReadBlock, std::byte{1});
  });
  return std::move(*buffer);
}

// One contiguous part a thread: the prefetchers then see long streams.
void ReadAll(ThreadPool& pool, absl::Span<const std::byte> bytes) {
  const int64_t blocks = static_cast<int64_t>(bytes.size()) / kReadBlock;
  const int64_t parts = pool.threads();
  pool.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = blocks * part / parts * kReadBlock;
      const int64_t last = blocks * (part + 1) / parts * kReadBlock;
      sink += StreamRead(bytes.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)));
    }
  });
}

double MeasureKernel(ThreadPool& pool, const PeakKernel& kernel, double seconds) {
  // So many iterations that starting the threads does not count.
  constexpr double kFlopsPerPass = 4e9;
  const int64_t iterations = std::max<int64_t>(1, static_cast<int64_t>(kFlopsPerPass / kernel.flops_per_iteration));
  const double flops = static_cast<double>(iterations) * kernel.flops_per_iteration * pool.threads();
  return BestRate(flops, seconds, [&] {
    pool.ParallelFor(pool.threads(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sink += static_cast<uint64_t>(kernel.run(iterations));
    });
  });
}

}  // namespace

MachineMeter::MachineMeter(const MachineLimitsOptions& options)
    : options_(options),
      pool_({.threads = options.threads}),
      read_buffer_(MakeReadBuffer(pool_, options.buffer_bytes > 0 ? options.buffer_bytes : DefaultBufferBytes())) {
  if (const int64_t rows = options.matmul_rows; rows > 0) {
    packed_ = PackedProducts(pool_, options.precision, rows);
    sgemm_ = SgemmProducts(pool_, rows);
    if (options.precision != WeightPrecision::kF32) onednn_ = OneDnnBf16Products(pool_.threads(), rows);
  }
  Measure();
}

double MachineMeter::SustainedRead() {
  if (read_buffer_.bytes() == 0) return 0;
  return SustainedRate(static_cast<double>(read_buffer_.bytes()), options_.seconds_per_figure, [this] {
    ReadAll(pool_, {read_buffer_.data(), read_buffer_.bytes()});
  });
}

double MachineMeter::BestRead() {
  if (read_buffer_.bytes() == 0) return 0;
  return BestRate(static_cast<double>(read_buffer_.bytes()), options_.seconds_per_figure, [this] {
    ReadAll(pool_, {read_buffer_.data(), read_buffer_.bytes()});
  });
}

const MachineLimits& MachineMeter::Measure() {
  const double seconds = options_.seconds_per_figure;
  const PeakKernel float_kernel = BestFloatKernel();
  const PeakKernel bf16_kernel = BestBf16Kernel();
  last_.threads = pool_.threads();
  last_.read_bytes_per_second = BestRead();
  last_.float_kernel = float_kernel.name;
  last_.bf16_kernel = bf16_kernel.name;
  last_.float_flops = MeasureKernel(pool_, float_kernel, seconds);
  last_.bf16_flops = MeasureKernel(pool_, bf16_kernel, seconds);
  last_.sgemm_flops = BestRate(sgemm_, seconds);
  last_.matmul_flops = BestRate(packed_, seconds);
  last_.onednn_flops = BestRate(onednn_, seconds);
  last_.openblas_core = openblas_get_corename();
  last_.cache_bytes = CacheBytes();
  return last_;
}

MachineLimits Mean(const MachineLimits& before, const MachineLimits& after) {
  MachineLimits mean = before;
  mean.read_bytes_per_second = (before.read_bytes_per_second + after.read_bytes_per_second) / 2;
  mean.sgemm_flops = (before.sgemm_flops + after.sgemm_flops) / 2;
  mean.float_flops = (before.float_flops + after.float_flops) / 2;
  mean.matmul_flops = (before.matmul_flops + after.matmul_flops) / 2;
  mean.onednn_flops = (before.onednn_flops + after.onednn_flops) / 2;
  mean.bf16_flops = (before.bf16_flops + after.bf16_flops) / 2;
  return mean;
}

}  // namespace baton
