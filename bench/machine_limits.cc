#include "bench/machine_limits.h"

#include <cblas.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "bench/matmul_peak.h"
#include "bench/peak_kernels.h"
#include "common/base/status_macros.h"
#include "common/base/thread_pool.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;

// Results go here, so that no kernel is optimised away.
std::atomic<uint64_t> sink{0};

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// The best rate of passes that each do `amount`, repeated for about `seconds`; the first only warms up.
double BestRate(double amount, double seconds, absl::FunctionRef<void()> pass) {
  pass();
  double best = 0;
  const Clock::time_point begin = Clock::now();
  do {
    const Clock::time_point start = Clock::now();
    pass();
    best = std::max(best, amount / Seconds(Clock::now() - start));
  } while (Seconds(Clock::now() - begin) < seconds);
  return best;
}

int64_t CacheBytes() { return std::max<int64_t>(0, sysconf(_SC_LEVEL3_CACHE_SIZE)); }

int64_t DefaultBufferBytes() {
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  return std::min(std::max(4 * CacheBytes(), int64_t{256} << 20), memory / 8);
}

class AnonymousBuffer {
 public:
  explicit AnonymousBuffer(size_t bytes)
      : data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)), size_(bytes) {
    if (data_ == MAP_FAILED) {
      size_ = 0;
      return;
    }
    madvise(data_, size_, MADV_HUGEPAGE);  // as weights would be in the best case; refusal does no harm
  }
  ~AnonymousBuffer() {
    if (size_ > 0) munmap(data_, size_);
  }
  AnonymousBuffer(const AnonymousBuffer&) = delete;
  absl::Span<std::byte> bytes() { return {static_cast<std::byte*>(data_), size_}; }

 private:
  void* data_;
  size_t size_;
};

double MeasureRead(ThreadPool& pool, int64_t buffer_bytes, double seconds) {
  constexpr int64_t kBlock = int64_t{2} << 20;
  const int64_t blocks = std::max<int64_t>(1, buffer_bytes / kBlock);
  AnonymousBuffer buffer(static_cast<size_t>(blocks * kBlock));
  const absl::Span<std::byte> bytes = buffer.bytes();
  if (bytes.empty()) return 0;
  // Every page written: untouched ones would all be the same zero page.
  pool.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end) {
    std::fill(bytes.begin() + begin * kBlock, bytes.begin() + end * kBlock, std::byte{1});
  });
  // One contiguous part a thread: the prefetchers then see long streams.
  const int64_t parts = pool.threads();
  return BestRate(static_cast<double>(bytes.size()), seconds, [&] {
    pool.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t first = blocks * part / parts * kBlock;
        const int64_t last = blocks * (part + 1) / parts * kBlock;
        sink += StreamRead(bytes.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)));
      }
    });
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

struct GemmShape {
  int64_t rows;
  int64_t outputs;
  int64_t inputs;
};

// y[r, o] = sum_i x[r, i] w[o, i], outputs cut over the threads as the engine does.
double MeasureSgemm(ThreadPool& pool, const GemmShape& shape, double seconds) {
  openblas_set_num_threads(1);  // the pool splits the work
  const std::vector<float> x(static_cast<size_t>(shape.rows * shape.inputs), 1.0f);
  const std::vector<float> w(static_cast<size_t>(shape.outputs * shape.inputs), 0.5f);
  std::vector<float> y(static_cast<size_t>(shape.rows * shape.outputs));
  const int64_t parts = pool.threads();
  const double flops = 2.0 * static_cast<double>(shape.rows) * static_cast<double>(shape.outputs * shape.inputs);
  return BestRate(flops, seconds, [&] {
    pool.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
      const int64_t first = shape.outputs * begin / parts;
      const int64_t count = shape.outputs * end / parts - first;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(shape.rows),
                  static_cast<blasint>(count), static_cast<blasint>(shape.inputs), 1.0f, x.data(),
                  static_cast<blasint>(shape.inputs), w.data() + first * shape.inputs,
                  static_cast<blasint>(shape.inputs), 0.0f, y.data() + first, static_cast<blasint>(shape.outputs));
    });
  });
}

}  // namespace

MachineLimits MeasureMachineLimits(const MachineLimitsOptions& options) {
  ThreadPool pool({.threads = options.threads});
  const double seconds = options.seconds_per_figure;
  MachineLimits limits;
  limits.threads = pool.threads();
  limits.read_bytes_per_second =
      MeasureRead(pool, options.buffer_bytes > 0 ? options.buffer_bytes : DefaultBufferBytes(), seconds);
  const PeakKernel float_kernel = BestFloatKernel();
  const PeakKernel bf16_kernel = BestBf16Kernel();
  limits.float_kernel = float_kernel.name;
  limits.bf16_kernel = bf16_kernel.name;
  limits.float_flops = MeasureKernel(pool, float_kernel, seconds);
  limits.bf16_flops = MeasureKernel(pool, bf16_kernel, seconds);
  if (options.matmul_rows > 0) {
    // Projections of a 2B model.
    const GemmShape shapes[] = {
        {options.matmul_rows, 2304, 2304}, {options.matmul_rows, 9216, 2304}, {options.matmul_rows, 2304, 9216}};
    for (const GemmShape& shape : shapes) {
      limits.sgemm_flops = std::max(limits.sgemm_flops, MeasureSgemm(pool, shape, seconds / std::size(shapes)));
    }
    limits.matmul_flops = MeasureMatMul(pool, options.precision, options.matmul_rows, seconds);
    const bool bf16 = options.precision != WeightPrecision::kF32;
    if (bf16) limits.onednn_flops = MeasureOneDnnBf16(limits.threads, options.matmul_rows, seconds);
  }
  limits.openblas_core = openblas_get_corename();
  limits.cache_bytes = CacheBytes();
  return limits;
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
