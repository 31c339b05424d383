// Sums of what peers tell, which may be anything: stuck at the largest number instead of overflowing.
#pragma once

#include <cstdint>
#include <limits>

namespace baton {

// Of numbers that are not negative.
inline int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<int64_t>::max() : sum;
}

inline int64_t SaturatingMultiply(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

}  // namespace baton
