// Everything a sequence needs to continue, as one movable value: position, KV pages of global and window layers, RG-LRU
// vectors and conv inputs. (The sampler needs nothing beyond the token history: its randomness is a function of seed
// and position.)
//
// Invariants:
//  * All bytes are reserved from the budget at Create, FromSnapshot or Fork; nothing later can fail for lack of memory.
//    Pages are allocated out of the reservation as the position advances, and those that leave a window return to it.
//  * Pages are shared with forks and snapshots, and copied before the first write to one that another state may write
//    too. A shared page does not return to this state's reservation, which has its replacement in it already.
//  * Rows are addressed by absolute position. A position is visible iff the model's mask says so; which page it lives
//    in is this class's business alone.
//  * Not thread-safe; one engine thread (and the kernels it runs) uses it at a time. After PrepareRun, rows of that run
//    may be written from several threads, and rows no thread writes may be read. Page references may go anywhere.
//
//   BATON_ASSIGN_OR_RETURN(SequenceState s, SequenceState::Create(layout, budget, max_tokens));
//   s.PrepareRun(run_tokens);
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
#include "common/state/kv_page.h"
#include "common/state/memory_budget.h"
#include "common/state/state_layout.h"
#include "common/state/state_snapshot.h"

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
  // Continues where the snapshot was taken. RESOURCE_EXHAUSTED when the budget has no room for what such a state may
  // yet own, INVALID_ARGUMENT when max_tokens < snapshot.position. `budget` is the one the snapshot's pages are of.
  static absl::StatusOr<SequenceState> FromSnapshot(const StateSnapshot& snapshot, MemoryBudget& budget,
                                                    int64_t max_tokens);
  SequenceState(SequenceState&&) noexcept = default;
  SequenceState& operator=(SequenceState&&) noexcept = default;

  const StateLayout& layout() const { return *layout_; }
  const std::shared_ptr<const StateLayout>& shared_layout() const { return layout_; }
  // Tokens consumed so far: the position of the next one.
  int64_t position() const { return position_; }
  int64_t max_tokens() const { return max_tokens_; }
  // What it alone takes from the budget: its reservation and its own pages, without those it shares.
  int64_t bytes() const;
  // The part of it that is not pages yet.
  int64_t reserved_bytes() const { return reservation_.bytes(); }

  // Room for max_tokens in all, which is not less than it has. RESOURCE_EXHAUSTED, with nothing changed, when the
  // budget has none.
  absl::Status Extend(int64_t max_tokens);

  // --- Sharing -------------------------------------------------------------------------------------------------------
  // A second state that continues from here, with room for max_tokens in all: full pages are shared, the last, partly
  // filled one is copied when either state writes to it, recurrent vectors are copied now. Both have reserved what they
  // may yet own: pages that this one counted on getting back from its windows are reserved anew. Errors as
  // FromSnapshot; then nothing has changed. `budget` must be this state's.
  absl::StatusOr<SequenceState> Fork(MemoryBudget& budget, int64_t max_tokens);
  // The same, out of `room` as far as that goes.
  absl::StatusOr<SequenceState> Fork(MemoryBudget& budget, MemoryReservation& room, int64_t max_tokens);
  // The state as a value, between runs. RESOURCE_EXHAUSTED, with nothing changed, when the budget has no room for the
  // copy of the recurrent vectors and for what this state will no longer get back.
  absl::StatusOr<StateSnapshot> Snapshot();
  // Of that, only the KV pages that are full: a snapshot at the last page boundary, without recurrent state. Pages that
  // had left a window before position() are not in it, even if the boundary's own window reached back to them.
  absl::StatusOr<StateSnapshot> ShareFullPages();
  // Between runs, when a fork or snapshot may be gone: pages that nobody else holds any more are its own again, and
  // what was reserved in their place is free.
  void ReclaimPages();
  // The page that holds positions [page * page_tokens, ...) of a KV layer, for readers of what has been written there;
  // empty when absent. A window's page should be released before it leaves the window: until then it takes the place of
  // one that this state has reserved, beyond the budget if need be.
  PageRef KvPage(int layer, int64_t page) const;

  // --- KV layers -----------------------------------------------------------------------------------------------------
  // Makes the pages of the next `tokens` positions of every KV layer writable, so that threads may share the writing.
  void PrepareRun(int64_t tokens);
  // Stores one position's K (after RoPE) and V, rounding to the layout's element type. k, v: [kv_heads, head_dim].
  // `position` < position() + max_run_tokens and < max_tokens.
  void WriteKv(int layer, int64_t position, absl::Span<const float> k, absl::Span<const float> v);
  // Calls fn for consecutive spans that cover positions [begin, end) of one kv head in ascending order. All of them
  // must still be live: windows keep positions from FirstNeededPosition(position()) on.
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
  struct Slot {
    PageRef page;
    int64_t index = -1;  // of the page in the sequence; -1: empty
    // Its bytes come out of this state's reservation and return there. Else others hold it too, or did.
    bool owned = false;
    // Another state may write to it.
    bool copy_on_write = false;
  };
  // KV: the reservation holds page_bytes * reserved for it, and reserved + owned pages are the most it may yet own at
  // one time: min(slots, total_pages - first_own).
  struct Layer {
    LayerStateSpec::Kind kind = LayerStateSpec::Kind::kGlobalKv;
    std::vector<Slot> slots;  // page i is in slot i % slots.size()
    int64_t page_bytes = 0;
    int64_t row_bytes = 0;    // one head's K or V of one position
    int64_t total_pages = 0;  // of max_tokens positions
    int64_t first_own = 0;    // pages before it are shared, or were
    int64_t reserved = 0;
    int64_t owned = 0;
    PageRef recurrent;
  };

  // What each layer needs to have reserved to go on from `position`; no reservation, page tables or pages yet.
  static SequenceState MakeEmpty(std::shared_ptr<const StateLayout> layout, int64_t max_tokens, int64_t position);
  int64_t ReservedKvBytes() const;
  // As long as the sequence, so that the bytes must have been reserved before.
  absl::Status MakeTables(MemoryReservation reservation);
  int64_t RecurrentBytes() const;
  // Out of the reservation; RESOURCE_EXHAUSTED when the system refuses the memory.
  absl::StatusOr<PageRef> TakeRecurrentPage(int64_t bytes);
  // Puts references to the snapshot's KV pages in place.
  void AdoptPages(const StateSnapshot& snapshot);
  // Snapshot() or ShareFullPages().
  absl::StatusOr<StateSnapshot> Share(bool full_pages_only, MemoryReservation& room);
  Layer& KvLayer(int layer, int kv_head);
  std::byte* WritablePage(Layer& layer, int64_t page);
  void MakeWritable(Layer& layer, Slot& slot, int64_t page);
  PageRef TakePage(Layer& layer);
  void CopyRows(const Layer& layer, const std::byte* from, std::byte* to, int64_t rows) const;
  void DropPage(Layer& layer, Slot& slot);
  // Windows let go of what position_ does not need any more.
  void DropOldPages(int64_t old_position);
  std::byte* MutableKvRow(int layer, int kv_head, int64_t position, bool value);
  std::byte* RecurrentState(int layer) const;

  std::shared_ptr<const StateLayout> layout_;
  MemoryReservation reservation_;
  std::vector<Layer> layers_;
  int64_t position_ = 0;
  int64_t max_tokens_ = 0;
  // Every KV layer's pages are writable from position_ to here.
  int64_t prepared_end_ = 0;
};

}  // namespace baton
