// The rate of whole matrix products at the shapes of a real model and `rows` tokens: what a prefill could reach if it
// were nothing else. Our own packed products and, where the build found it, oneDNN's bf16 ones, for the best of both is
// the yardstick.
#pragma once

#include "common/base/thread_pool.h"
#include "common/compute/packed_matrix.h"

namespace baton {

// FLOP per second of the best shape, each of them timed for its share of `seconds`.
double MeasureMatMul(ThreadPool& pool, WeightPrecision precision, int64_t rows, double seconds);

// oneDNN, bfloat16 weights packed as it likes best. 0 when the build has no oneDNN or this CPU no bfloat16.
double MeasureOneDnnBf16(int threads, int64_t rows, double seconds);

}  // namespace baton
