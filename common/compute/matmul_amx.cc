// The kernels of matmul_amx.inc on AMX.
#if defined(__x86_64__)

#include <algorithm>
#include <type_traits>

#include "common/compute/amx_tiles.h"
#include "common/compute/matmul_codes.inc"

namespace baton {
namespace {

#include "common/compute/matmul_amx.inc"

}  // namespace

void MatMulAmx(const MatMulTask& task, const MatMulBlock& block, MatMulScratch& scratch) {
  AmxTiles tiles;
  MatMulTiles(tiles, task, block, scratch);
}

}  // namespace baton

#endif
