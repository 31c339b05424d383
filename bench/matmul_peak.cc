#include "bench/matmul_peak.h"

#include <cblas.h>

#include <algorithm>
#include <cstddef>
#include <memory>

#if BATON_HAVE_ONEDNN
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#endif

#include "bench/best_rate.h"
#include "common/base/pages.h"
#include "common/base/status_macros.h"
#include "common/compute/bf16.h"
#include "common/compute/matmul.h"

namespace baton {
namespace {

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

// Small values of both signs: kernels may take shortcuts for zeros.
float Value(int64_t i) { return RoundToBf16(static_cast<float>(i * 37 % 101 - 50) / 64.0f); }

std::vector<float> Values(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = Value(static_cast<int64_t>(i));
  return values;
}

// One group of outputs, packed and repeated.
PageBlock RepeatedWeights(ThreadPool& pool, WeightPrecision precision, const Shape& shape) {
  const int64_t group_bytes = PackedBytes(precision, kGroupOutputs, shape.inputs);
  absl::StatusOr<PageBlock> storage =
      PageBlock::Allocate(static_cast<size_t>(group_bytes * shape.outputs / kGroupOutputs));
  BATON_CHECK(storage.ok());
  std::byte* packed = storage->data();
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
  return *std::move(storage);
}

}  // namespace

std::vector<Product> PackedProducts(ThreadPool& pool, WeightPrecision precision, int64_t rows) {
  struct Operands {
    PageBlock weights;
    std::vector<float> x, y;
  };
  std::vector<Product> products;
  for (const Shape& shape : kShapes) {
    const auto operands = std::make_shared<Operands>();
    operands->weights = RepeatedWeights(pool, precision, shape);
    operands->x = Values(rows * shape.inputs);
    operands->y.resize(static_cast<size_t>(rows * shape.outputs));
    const PackedMatrix weights = {operands->weights.data(), precision, shape.outputs, shape.inputs};
    products.push_back({shape.Flops(rows), [&pool, operands, weights, rows] {
                          MatMul(pool, weights, nullptr, {operands->x.data(), weights.inputs, rows}, operands->y.data(),
                                 weights.outputs);
                        }});
  }
  return products;
}

std::vector<Product> SgemmProducts(ThreadPool& pool, int64_t rows) {
  struct Operands {
    std::vector<float> weights, x, y;
  };
  openblas_set_num_threads(1);  // the pool splits the work, outputs cut over the threads as the engine does
  std::vector<Product> products;
  for (const Shape& shape : kShapes) {
    const auto operands = std::make_shared<Operands>();
    operands->weights = Values(shape.outputs * shape.inputs);
    operands->x = Values(rows * shape.inputs);
    operands->y.resize(static_cast<size_t>(rows * shape.outputs));
    products.push_back({shape.Flops(rows), [&pool, operands, shape, rows] {
                          const int64_t parts = pool.threads();
                          const auto inputs = static_cast<blasint>(shape.inputs);
                          pool.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
                            const int64_t first = shape.outputs * begin / parts;
                            const int64_t count = shape.outputs * end / parts - first;
                            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(rows),
                                        static_cast<blasint>(count), inputs, 1.0f, operands->x.data(), inputs,
                                        operands->weights.data() + first * shape.inputs, inputs, 0.0f,
                                        operands->y.data() + first, static_cast<blasint>(shape.outputs));
                          });
                        }});
  }
  return products;
}

#if BATON_HAVE_ONEDNN

std::vector<Product> OneDnnBf16Products(int threads, int64_t rows) {
  using dnnl::memory;
  struct Operands {
    dnnl::stream stream;
    memory x, weights, y;
    dnnl::matmul product;
  };
  omp_set_num_threads(threads);
  std::vector<Product> products;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    for (const Shape& shape : kShapes) {
      const memory::desc x({rows, shape.inputs}, memory::data_type::bf16, memory::format_tag::ab);
      const memory::desc weights({shape.inputs, shape.outputs}, memory::data_type::bf16, memory::format_tag::any);
      const memory::desc y({rows, shape.outputs}, memory::data_type::f32, memory::format_tag::ab);
      const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, weights, y), engine);
      const auto operands = std::make_shared<Operands>(Operands{dnnl::stream(engine), memory(x, engine),
                                                                memory(description.weights_desc(), engine),
                                                                memory(y, engine), dnnl::matmul(description)});
      for (memory* to : {&operands->x, &operands->weights}) {
        // bfloat16 1.0, whatever the layout.
        auto* values = static_cast<uint16_t*>(to->get_data_handle());
        std::fill(values, values + to->get_desc().get_size() / sizeof(uint16_t), uint16_t{0x3f80});
      }
      products.push_back({shape.Flops(rows), [operands] {
                            operands->product.execute(operands->stream, {{DNNL_ARG_SRC, operands->x},
                                                                         {DNNL_ARG_WEIGHTS, operands->weights},
                                                                         {DNNL_ARG_DST, operands->y}});
                            operands->stream.wait();
                          }});
    }
  } catch (const dnnl::error&) {  // no bfloat16 on this CPU
    return {};
  }
  return products;
}

#else

std::vector<Product> OneDnnBf16Products(int, int64_t) { return {}; }

#endif

double BestRate(const std::vector<Product>& products, double seconds) {
  double best = 0;
  for (const Product& product : products) {
    best = std::max(best, BestRate(product.flops, seconds / static_cast<double>(products.size()), product.run));
  }
  return best;
}

}  // namespace baton
