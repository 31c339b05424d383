// The kernel of attention_amx.inc on AMX.
#if defined(__x86_64__)

#include "common/compute/amx_tiles.h"
#include "common/compute/attention_scratch.h"

#define BATON_ISA_BODY "common/compute/attention_amx.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void AttendAmx(const AttentionShape& shape, const KeyValueRows* pieces, int64_t piece_count,
               const AttentionQuery* queries, int query_count, const AttentionScratch& scratch) {
  AmxTiles tiles;
  avx512bf16::AttendOnTiles(tiles, shape, pieces, piece_count, queries, query_count, scratch);
}

}  // namespace baton

#endif
