#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "common/base/status_macros.h"
#include "common/model/synth.h"

namespace baton {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

uint64_t Fnv1a64(absl::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return hash;
}

uint64_t StreamBase(absl::string_view name, uint64_t seed) { return Fnv1a64(name) ^ (seed * kGolden); }

// SplitMix64's output function at step i + 1.
uint64_t Mix(uint64_t base, uint64_t i) {
  uint64_t z = base + (i + 1) * kGolden;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// Uniform in [offset - scale, offset + scale), where scale is factor, or factor * sqrt(3 / fan-in): variance factor^2 /
// fan-in.
struct Distribution {
  absl::string_view suffix;
  double factor;
  bool by_fan_in;
  double offset;
};

// The first suffix that matches decides. Offsets keep final activations and RG-LRU decays where trained models have
// them.
constexpr Distribution kDistributions[] = {
    {"embed_tokens.weight", 0.5, true, 0.0},
    {"model.norm.weight", 0.2, false, 5.0},
    {"model.final_norm.weight", 0.2, false, 5.0},
    {"norm.weight", 0.2, false, 0.0},
    {"q_proj.weight", 3.0, true, 0.0},
    {"o_proj.weight", 2.0, true, 0.0},
    {"down_proj.weight", 2.0, true, 0.0},
    {"linear_out.weight", 2.0, true, 0.0},
    {"recurrent_param", 3.3, false, -5.0},
    {"gate_bias", 0.5, false, 0.0},
    {".bias", 0.2, false, 0.0},
    {"", 1.0, true, 0.0},
};

const Distribution& DistributionOf(absl::string_view name) {
  return *std::find_if(std::begin(kDistributions), std::end(kDistributions),
                       [&](const Distribution& distribution) { return absl::EndsWith(name, distribution.suffix); });
}

}  // namespace

uint64_t SynthRaw(absl::string_view name, uint64_t seed, uint64_t i) { return Mix(StreamBase(name, seed), i); }

void SynthWeights(absl::string_view tensor_name, absl::Span<const int64_t> shape, uint64_t seed, int64_t begin,
                  absl::Span<float> out) {
  BATON_CHECK(!shape.empty() && shape.back() > 0);
  const Distribution& distribution = DistributionOf(tensor_name);
  const double fan_in_scale = distribution.by_fan_in ? std::sqrt(3.0 / static_cast<double>(shape.back())) : 1.0;
  // Rounded to float once: 24 bits times the 24 bits of x are exact in double, so that fused and separate multiply-add
  // agree.
  const double scale = static_cast<float>(distribution.factor * fan_in_scale);
  const double offset = distribution.offset;
  const uint64_t base = StreamBase(tensor_name, seed);
  constexpr double kHalfRange = 1 << 23;
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t upper = static_cast<int64_t>(Mix(base, static_cast<uint64_t>(begin) + i) >> 40);  // 24 bits
    const double x = static_cast<double>(upper - (1 << 23)) / kHalfRange;                           // [-1, 1)
    out[i] = static_cast<float>(offset + scale * x);
  }
}

}  // namespace baton
