// AMX's tile registers: 0 to 3 hold sums of 16 x 16 float32, 4 and 5 rows of bfloat16, 6 and 7 what these are
// multiplied by, in pairs. Kernels take this class as a parameter, so that they run on an emulation too
// (tests/common/compute/emulated_tiles.h).
#pragma once

#include <cstdint>

namespace baton {

// Written as assembly: compilers' intrinsics want literal tile numbers.
class AmxTiles {
 public:
  // Rows of tiles 4 and 5 (1 to 16, 0 to 16: none); sums from tile `groups` on belong to tile 5. Clears all tiles where
  // it changes something.
  void Configure(int rows, int more_rows, int groups) {
    if (rows == rows_ && more_rows == more_rows_ && groups == groups_) return;
    rows_ = rows;
    more_rows_ = more_rows;
    groups_ = groups;
    // LDTILECFG's operand, palette 1.
    struct alignas(64) {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = 64;
      config.rows[tile] = 16;
    }
    // A sum has the rows of its activations.
    for (int tile = 0; tile < 4; ++tile) {
      config.rows[tile] = static_cast<uint8_t>(tile >= groups && more_rows > 0 ? more_rows : rows);
    }
    config.rows[4] = static_cast<uint8_t>(rows);
    config.rows[5] = static_cast<uint8_t>(more_rows > 0 ? more_rows : rows);
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  void Release() {
    rows_ = 0;
    asm volatile("tilerelease");
  }
  template <int kTile>
  __attribute__((always_inline)) void Zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  __attribute__((always_inline)) void Load(const void* base, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  __attribute__((always_inline)) void Store(void* base, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSum, int kX, int kW>
  __attribute__((always_inline)) void Multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kX), "i"(kW));
  }

 private:
  int rows_ = 0;
  int more_rows_ = 0;
  int groups_ = 0;
};

}  // namespace baton
