#include <array>
#include <bit>

#include "common/compute/bf16.h"
#include "common/compute/matmul_kernels.h"

namespace baton {
namespace {

// bfloat16 of the int4 codes: twice, for look-ups whose index has a junk fifth bit; and by bytes.
struct Int4Tables {
  uint16_t words[32];
  uint8_t low[16], high[16];
};

constexpr Int4Tables MakeInt4Tables() {
  Int4Tables tables = {};
  for (int i = 0; i < 32; ++i) tables.words[i] = FloatToBf16(kInt4Values[i % 16]);
  for (int i = 0; i < 16; ++i) {
    tables.low[i] = static_cast<uint8_t>(tables.words[i] & 0xff);
    tables.high[i] = static_cast<uint8_t>(tables.words[i] >> 8);
  }
  return tables;
}

constexpr Int4Tables int4_tables = MakeInt4Tables();

}  // namespace
}  // namespace baton

#define BATON_ISA_BODY "common/compute/matmul_lanes.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void MatMulLanes(const MatMulTask& task, const MatMulBlock& block, MatMulScratch& scratch) {
  BATON_PICK_ISA(MatMulBlockOf)(task, block, scratch);
}

}  // namespace baton
