// The seed of each sample of one request. Sample i equals the request sent alone with that seed, bit for bit: whatever
// else differs between them (batch, fork, worker) changes no token.
//
//   seed_0 = seed
//   seed_i = seed XOR mix(i)
//
// mix is SplitMix64's finaliser: a bijection with mix(0) = 0, so the seeds of one request differ from each other.
// Clients may compute it; docs/api.md shows it.
#pragma once

#include <cstdint>

namespace baton {

inline uint64_t SampleSeed(uint64_t seed, int sample) {
  uint64_t mixed = static_cast<uint64_t>(sample);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  return seed ^ mixed ^ (mixed >> 31);
}

}  // namespace baton
