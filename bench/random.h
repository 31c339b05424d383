// Random numbers that are the same for a seed on every build: SplitMix64 and plain transformations, where the standard
// library leaves the algorithm of a distribution open.
//
//   Random random(seed, /*stream=*/3);   // independent of other streams of the seed
#pragma once

#include <cmath>
#include <cstdint>

namespace baton {

class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : state_(Mix(Mix(seed + kGamma) ^ (stream + 1))) {}

  uint64_t Next() { return Mix(state_ += kGamma); }
  // In [0, 1).
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // In [low, high], which must not be empty.
  int64_t Integer(int64_t low, int64_t high) {
    const auto size = static_cast<unsigned __int128>(static_cast<uint64_t>(high - low)) + 1;
    return low + static_cast<int64_t>(static_cast<uint64_t>((size * Next()) >> 64));
  }
  double Exponential(double mean) { return -mean * std::log1p(-Uniform()); }
  // Standard normal (Box-Muller).
  double Normal() {
    constexpr double kTwoPi = 6.283185307179586;
    const double radius = std::sqrt(Exponential(2));
    return radius * std::cos(kTwoPi * Uniform());
  }

 private:
  static constexpr uint64_t kGamma = 0x9E3779B97F4A7C15;
  static uint64_t Mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

}  // namespace baton
