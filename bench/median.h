// The median of a benchmark's passes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace baton {

// Of an even number, the mean of the two in the middle. Not of none.
inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace baton
