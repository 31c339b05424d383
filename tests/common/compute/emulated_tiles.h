// AMX's tile registers and bfloat16 product in plain code, for the kernels of matmul_amx.inc: sums of the documented
// order (Intel's description of TDPBF16PS), and a check of everything that the hardware would answer with a fault.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/base/status_macros.h"
#include "common/compute/bf16.h"

namespace baton {

class EmulatedTiles {
 public:
  void Configure(int rows, int more_rows, int groups) {
    BATON_CHECK(rows >= 1 && rows <= 16 && more_rows >= 0 && more_rows <= 16);
    for (int tile = 0; tile < 8; ++tile) rows_[tile] = 16;
    for (int tile = 0; tile < 4; ++tile) rows_[tile] = tile >= groups && more_rows > 0 ? more_rows : rows;
    rows_[4] = rows;
    rows_[5] = more_rows > 0 ? more_rows : rows;
    // Loading a configuration clears the tiles; this would too, and shows who counts on their contents.
    std::memset(tiles_, 0xff, sizeof(tiles_));
  }
  void Release() {
    for (int& rows : rows_) rows = 0;
  }

  template <int kTile>
  void Zero() {
    BATON_CHECK(rows_[kTile] > 0);
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
  }
  template <int kTile>
  void Load(const void* base, int64_t stride) {
    BATON_CHECK(rows_[kTile] > 0);
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
    for (int r = 0; r < rows_[kTile]; ++r)
      std::memcpy(tiles_[kTile][r], static_cast<const char*>(base) + r * stride, 64);
  }
  template <int kTile>
  void Store(void* base, int64_t stride) {
    BATON_CHECK(rows_[kTile] > 0);
    for (int r = 0; r < rows_[kTile]; ++r) std::memcpy(static_cast<char*>(base) + r * stride, tiles_[kTile][r], 64);
  }
  template <int kSum, int kX, int kW>
  void Multiply() {
    BATON_CHECK(rows_[kSum] == rows_[kX] && rows_[kX] > 0 && rows_[kW] == 16);
    for (int r = 0; r < rows_[kSum]; ++r) {
      for (int o = 0; o < 16; ++o) {
        float even = 0;
        float odd = 0;
        for (int pair = 0; pair < 16; ++pair) {
          const uint32_t x = tiles_[kX][r][pair];
          const uint32_t w = tiles_[kW][pair][o];
          even += Bf16ToFloat(static_cast<uint16_t>(x)) * Bf16ToFloat(static_cast<uint16_t>(w));
          odd += Bf16ToFloat(static_cast<uint16_t>(x >> 16)) * Bf16ToFloat(static_cast<uint16_t>(w >> 16));
        }
        float sum;
        std::memcpy(&sum, &tiles_[kSum][r][o], sizeof(sum));
        sum += even + odd;
        std::memcpy(&tiles_[kSum][r][o], &sum, sizeof(sum));
      }
    }
  }

 private:
  int rows_[8] = {};
  uint32_t tiles_[8][16][16];
};

}  // namespace baton
