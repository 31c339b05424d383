#include "bench/matmul_peak.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <vector>

#if BATON_HAVE_ONEDNN
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#endif

#include "common/base/status_macros.h"
#include "common/compute/bf16.h"
#include "common/compute/matmul.h"
#include "common/state/aligned_block.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kGroupOutputs = 16;

struct Shape {
  int64_t outputs;
  int64_t inputs;

  double Flops(int64_t rows) const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(outputs) * static_cast<double>(inputs);
  }
};

// Projections of a 2B model.
constexpr Shape kShapes[] = {{9216, 2304}, {2304, 9216}, {2048, 2304}};

// FLOP per second of the fastest of the passes that fit `seconds`; at least two, the first of which warms up.
template <typename Pass>
double BestRate(double flops, double seconds, Pass pass) {
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  pass();
  double best = 0;
  do {
    const Clock::time_point start = Clock::now();
    pass();
    best = std::max(best, flops / std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < end);
  return best;
}

// Small values of both signs: kernels may take shortcuts for zeros.
float Value(int64_t i) { return RoundToBf16(static_cast<float>(i * 37 % 101 - 50) / 64.0f); }

}  // namespace

double MeasureMatMul(ThreadPool& pool, WeightPrecision precision, int64_t rows, double seconds) {
  double best = 0;
  for (const Shape& shape : kShapes) {
    // One group of outputs is packed and repeated.
    const int64_t group_bytes = PackedBytes(precision, kGroupOutputs, shape.inputs);
    AlignedBlock storage;
    std::byte* packed = storage.GetOrAllocate(static_cast<size_t>(group_bytes * shape.outputs / kGroupOutputs));
    BATON_CHECK(packed != nullptr);
    const absl::Status packing = PackMatrix(
        pool, precision, kGroupOutputs, shape.inputs,
        [&](int64_t output, absl::Span<float> row) {
          for (size_t i = 0; i < row.size(); ++i) row[i] = Value(output + static_cast<int64_t>(i));
        },
        packed);
    BATON_CHECK(packing.ok());
    for (int64_t group = 1; group < shape.outputs / kGroupOutputs; ++group) {
      std::copy(packed, packed + group_bytes, packed + group * group_bytes);
    }
    std::vector<float> x(static_cast<size_t>(rows * shape.inputs));
    for (size_t i = 0; i < x.size(); ++i) x[i] = Value(static_cast<int64_t>(i));
    std::vector<float> y(static_cast<size_t>(rows * shape.outputs));
    const PackedMatrix weights = {packed, precision, shape.outputs, shape.inputs};
    best = std::max(best, BestRate(shape.Flops(rows), seconds / std::size(kShapes), [&] {
                      MatMul(pool, weights, nullptr, {x.data(), shape.inputs, rows}, y.data(), shape.outputs);
                    }));
  }
  return best;
}

#if BATON_HAVE_ONEDNN

double MeasureOneDnnBf16(int threads, int64_t rows, double seconds) {
  using dnnl::memory;
  omp_set_num_threads(threads);
  double best = 0;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    for (const Shape& shape : kShapes) {
      const memory::desc x({rows, shape.inputs}, memory::data_type::bf16, memory::format_tag::ab);
      const memory::desc w({shape.inputs, shape.outputs}, memory::data_type::bf16, memory::format_tag::any);
      const memory::desc y({rows, shape.outputs}, memory::data_type::f32, memory::format_tag::ab);
      const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, w, y), engine);
      memory x_memory(x, engine);
      memory w_memory(description.weights_desc(), engine);
      memory y_memory(y, engine);
      // bfloat16 1.0, whatever the layout.
      const auto fill = [](memory& to) {
        auto* values = static_cast<uint16_t*>(to.get_data_handle());
        std::fill(values, values + to.get_desc().get_size() / sizeof(uint16_t), uint16_t{0x3f80});
      };
      fill(x_memory);
      fill(w_memory);
      const dnnl::matmul product(description);
      best = std::max(
          best, BestRate(shape.Flops(rows), seconds / std::size(kShapes), [&] {
            product.execute(stream, {{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, w_memory}, {DNNL_ARG_DST, y_memory}});
            stream.wait();
          }));
    }
  } catch (const dnnl::error&) {  // no bfloat16 on this CPU
    return 0;
  }
  return best;
}

#else

double MeasureOneDnnBf16(int, int64_t, double) { return 0; }

#endif

}  // namespace baton
