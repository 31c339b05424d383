#include "common/compute/rope.h"

#include <cmath>

namespace baton {
namespace {

// Some microseconds of sines.
constexpr int64_t kRowsAtOnce = 4;

}  // namespace

RopeTable::RopeTable(double theta, int rotary_dim) : half_(rotary_dim / 2), frequencies_(half_) {
  for (int i = 0; i < half_; ++i) frequencies_[i] = std::pow(theta, -2.0 * i / rotary_dim);
}

void RopeTable::Prepare(ThreadPool& pool, absl::Span<const int64_t> positions) {
  const size_t entries = positions.size() * half_;
  if (cosines_.size() < entries) {
    cosines_.resize(entries);
    sines_.resize(entries);
  }
  pool.ParallelFor(static_cast<int64_t>(positions.size()), kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int i = 0; i < half_; ++i) {
        const double angle = static_cast<double>(positions[row]) * frequencies_[i];
        cosines_[row * half_ + i] = static_cast<float>(std::cos(angle));
        sines_[row * half_ + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

void RopeTable::Rotate(int64_t row, int heads, int head_dim, float* vectors) const {
  const float* cosine = &cosines_[row * half_];
  const float* sine = &sines_[row * half_];
  for (int head = 0; head < heads; ++head) {
    float* first = vectors + int64_t{head} * head_dim;
    float* second = first + half_;
    for (int i = 0; i < half_; ++i) {
      const float a = first[i];
      const float b = second[i];
      first[i] = a * cosine[i] - b * sine[i];
      second[i] = b * cosine[i] + a * sine[i];
    }
  }
}

}  // namespace baton
