// Whole matrix products at the shapes of a real model and `rows` tokens: what a prefill could reach if it were nothing
// else. Our own packed products and, where the build found it, oneDNN's bf16 ones, for the best of both is the
// yardstick; OpenBLAS's for f32.
//
//   const std::vector<Product> products = PackedProducts(pool, WeightPrecision::kInt8, 512);
//   double flops_per_second = BestRate(products, /*seconds=*/0.4);
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/compute/packed_matrix.h"

namespace baton {

// One product with its operands, ready to be repeated.
struct Product {
  double flops = 0;
  std::function<void()> run;
};

// `pool` must outlive the products.
std::vector<Product> PackedProducts(ThreadPool& pool, WeightPrecision precision, int64_t rows);
std::vector<Product> SgemmProducts(ThreadPool& pool, int64_t rows);
// bfloat16 weights packed as oneDNN likes best. Empty when the build has no oneDNN or this CPU no bfloat16.
std::vector<Product> OneDnnBf16Products(int threads, int64_t rows);

// FLOP per second of the best of them, each timed for its share of `seconds`. 0 when there are none.
double BestRate(const std::vector<Product>& products, double seconds);

}  // namespace baton
