// Everything a sequence needs to continue, as one movable value: position, global KV pages, window rings, RG-LRU
// vectors and conv inputs. (The sampler needs nothing beyond the token history: its randomness is a function of seed
// and position.)
//
// Invariants:
//  * All bytes are reserved from the budget at Create; nothing later can fail for lack of memory. Pages of global KV
//    are allocated as the position advances; bytes() is what is reserved.
//  * Rows are addressed by absolute position. A position is visible iff the model's mask says so; which slot it lives
//    in is this class's business alone.
//  * Not thread-safe; one engine thread (and the kernels it runs) uses it at a time. Within one run, rows of different
//    positions or layers may be written from several threads, and rows no thread writes may be read.
//
//   BATON_ASSIGN_OR_RETURN(SequenceState s, SequenceState::Create(layout, budget, max_tokens));
//   s.WriteKv(layer, s.position() + i, k, v);        // for every token of a run, every KV layer
//   s.ForEachKvSpan(layer, head, begin, end, fn);    // contiguous rows, ascending positions
//   s.Advance(run_tokens);                           // after the last layer
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/state/aligned_block.h"
#include "common/state/memory_budget.h"
#include "common/state/state_layout.h"

namespace baton {

// `count` consecutive positions of one head: row i is at keys + i * head_dim elements (same for values).
struct KvSpan {
  const std::byte* keys = nullptr;
  const std::byte* values = nullptr;
  int64_t first_position = 0;
  int64_t count = 0;
};

class SequenceState {
 public:
  // RESOURCE_EXHAUSTED when the budget has no room for layout.BytesFor(max_tokens), INVALID_ARGUMENT when max_tokens
  // < 1. The layout is shared, not copied. Recurrent vectors and conv inputs start as zeros.
  static absl::StatusOr<SequenceState> Create(std::shared_ptr<const StateLayout> layout, MemoryBudget& budget,
                                              int64_t max_tokens);
  SequenceState(SequenceState&&) noexcept = default;
  SequenceState& operator=(SequenceState&&) noexcept = default;

  const StateLayout& layout() const { return *layout_; }
  // Tokens consumed so far: the position of the next one.
  int64_t position() const { return position_; }
  int64_t max_tokens() const { return max_tokens_; }
  int64_t bytes() const { return reservation_.bytes(); }

  // A copy with its own reservation. Costs a full copy of the live bytes.
  absl::StatusOr<SequenceState> DeepCopy(MemoryBudget& budget) const;

  // --- KV layers -----------------------------------------------------------------------------------------------------
  // Stores one position's K (after RoPE) and V, rounding to the layout's element type. k, v: [kv_heads, head_dim].
  // `position` < position() + max_run_tokens and < max_tokens.
  void WriteKv(int layer, int64_t position, absl::Span<const float> k, absl::Span<const float> v);
  // Calls fn for consecutive spans that cover positions [begin, end) of one kv head in ascending order. All of them
  // must still be live (rings keep the last RingSlots positions).
  void ForEachKvSpan(int layer, int kv_head, int64_t begin, int64_t end,
                     absl::FunctionRef<void(const KvSpan&)> fn) const;
  // Raw rows, in the layout's element type, for the codec and tests: [head_dim] each.
  std::byte* MutableKeyRow(int layer, int kv_head, int64_t position);
  std::byte* MutableValueRow(int layer, int kv_head, int64_t position);
  // First position of the layer a decoder at position() still needs: 0 for global layers,
  // max(0, position() - (visible_keys - 1)) for windows.
  int64_t FirstNeededPosition(int layer, int64_t at_position) const;

  // --- Recurrent layers ----------------------------------------------------------------------------------------------
  // [width], float32.
  absl::Span<float> RgLruState(int layer);
  absl::Span<const float> RgLruState(int layer) const;
  // The last conv_history inputs of the convolution, oldest first: [conv_history, width] in the layout's element type.
  absl::Span<std::byte> ConvState(int layer);
  absl::Span<const std::byte> ConvState(int layer) const;

  // --- Position ------------------------------------------------------------------------------------------------------
  void Advance(int64_t tokens);
  // For the codec: the received state continues at `position`.
  void SetPosition(int64_t position);

 private:
  SequenceState() = default;
  struct Layer {
    LayerStateSpec::Kind kind = LayerStateSpec::Kind::kGlobalKv;
    // kGlobalKv: one block per page, allocated at its first row. kWindowKv: one block, the ring. Both hold K then V,
    // each [kv_heads, block_slots, head_dim]. kRecurrent: one block, RG-LRU then conv.
    std::vector<AlignedBlock> blocks;
    int64_t block_bytes = 0;
    int64_t block_slots = 0;
    // One head's K or V of one position.
    int64_t row_bytes = 0;
  };
  struct Slot {
    int64_t block;
    int64_t index;
  };

  Slot Locate(int layer, int64_t position) const;
  std::byte* MutableKvRow(int layer, int kv_head, int64_t position, bool value);
  std::byte* RecurrentBlock(int layer) const;

  std::shared_ptr<const StateLayout> layout_;
  MemoryReservation reservation_;
  std::vector<Layer> layers_;
  int64_t position_ = 0;
  int64_t max_tokens_ = 0;
};

}  // namespace baton
