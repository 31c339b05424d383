#include "common/compute/kv_quantization.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/compute/bf16.h"
#include "common/compute/cpu_isa.h"

namespace baton {
namespace {

std::vector<float> RandomRow(int64_t n, float size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> row(n);
  for (float& x : row) x = RoundToBf16(normal(random));
  return row;
}

TEST(KvQuantizationTest, ErrorsAreWithinHalfAStep) {
  for (float size : {1e-30f, 1e-3f, 1.0f, 1e4f, 1e35f}) {
    for (int64_t n : {1, 7, 64, 255, 256}) {
      const std::vector<float> x = RandomRow(n, size, n);
      std::vector<int8_t> codes(n);
      const uint16_t scale = QuantizeKvRow(x.data(), n, codes.data());
      std::vector<float> back(n);
      DequantizeKvRow(codes.data(), scale, n, back.data());
      float largest = 0;
      for (float value : x) largest = std::max(largest, std::abs(value));
      // A scale that was rounded down cuts the largest one by up to 2^-8 of it.
      for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(back[i], x[i], largest * (0.5 / 127 + 1.0 / 256)) << size << " " << n;
    }
  }
}

TEST(KvQuantizationTest, BothElementTypesGiveTheSameCodes) {
  const std::vector<float> x = RandomRow(256, 2, 1);
  std::vector<uint16_t> bf16(256);
  for (int i = 0; i < 256; ++i) bf16[i] = FloatToBf16(x[i]);
  std::vector<int8_t> a(256);
  std::vector<int8_t> b(256);
  EXPECT_EQ(QuantizeKvRow(x.data(), 256, a.data()), QuantizeKvRow(bf16.data(), 256, b.data()));
  EXPECT_EQ(a, b);
}

TEST(KvQuantizationTest, ZerosStayZeros) {
  const std::vector<float> x(64, 0.0f);
  std::vector<int8_t> codes(64, 1);
  std::vector<float> back(64, 1);
  DequantizeKvRow(codes.data(), QuantizeKvRow(x.data(), 64, codes.data()), 64, back.data());
  EXPECT_EQ(back, x);
}

TEST(KvQuantizationTest, DamageStaysVisible) {
  for (float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = RandomRow(64, 1, 3);
    x[17] = -poison;
    std::vector<int8_t> codes(64);
    std::vector<float> back(64);
    DequantizeKvRow(codes.data(), QuantizeKvRow(x.data(), 64, codes.data()), 64, back.data());
    for (float value : back) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(KvQuantizationTest, EveryInstructionSetAgrees) {
  const Isa best = CurrentIsa();
  const std::vector<float> x = RandomRow(251, 3, 9);
  std::vector<int8_t> expected(251);
  std::vector<float> expected_back(251);
  SetIsa(Isa::kPortable);
  const uint16_t scale = QuantizeKvRow(x.data(), 251, expected.data());
  DequantizeKvRow(expected.data(), scale, 251, expected_back.data());
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa > best) break;
    SetIsa(isa);
    std::vector<int8_t> codes(251);
    std::vector<float> back(251);
    EXPECT_EQ(QuantizeKvRow(x.data(), 251, codes.data()), scale);
    DequantizeKvRow(codes.data(), scale, 251, back.data());
    EXPECT_EQ(codes, expected);
    EXPECT_EQ(back, expected_back);
  }
  SetIsa(best);
}

}  // namespace
}  // namespace baton
