// What of a state is final and may leave, piece by piece, while the rest is still being computed: layer by layer within
// a chunk, chunk after chunk. Deciding that is the engine thread's business and costs it next to nothing: a piece names
// rows where they lie; reading them is left to whoever writes them out.
//
//   StateCutter cutter(layout, prompt_tokens);
//   // in the forward pass, when all rows of a run have passed a layer's mixer:
//   cutter.LayerDone(state, layer, position_after_run, &pieces);
//   ...
//   if (cutter.complete()) ... all pieces are out: the commit may follow
//
// K and V leave in whole pages: rows of a page that later chunks still fill wait for them, so that a piece is one range
// of memory, written once and never again. Only the first and last page of a layer may be parts of pages. Of window
// layers only rows that are needed at the final position leave; recurrent layers leave once, after the last chunk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/state/sequence_state.h"
#include "common/state/state_layout.h"

namespace baton {

// One section of the wire format, not yet serialized.
struct StatePiece {
  int layer = 0;
  // KV: the first of `count` positions. Recurrent: the position of the state; count is 0.
  int64_t first = 0;
  int64_t count = 0;
  // KV: K [kv_heads, count, head_dim], then V, in the layout's element type. Recurrent: RG-LRU, then conv inputs.
  // They lie in the state's memory, where they stay unchanged as long as the state lives.
  std::vector<absl::string_view> bytes;
};

class StateCutter {
 public:
  // `layout` must outlive it. `final_position`: where the state is handed over.
  StateCutter(const StateLayout& layout, int64_t final_position);

  // Rows of `layer` at all positions before `position` are final in `state`, which may not have advanced there yet;
  // recurrent layers are as they are at `position`. Appends what may leave now. `position` never falls.
  void LayerDone(const SequenceState& state, int layer, int64_t position, std::vector<StatePiece>* out);
  // LayerDone for all layers at the state's position.
  void AllLayersDone(const SequenceState& state, std::vector<StatePiece>* out);
  // Everything that is needed at the final position has left.
  bool complete() const { return layers_left_ == 0; }

 private:
  void CutKv(const SequenceState& state, int layer, int64_t end, std::vector<StatePiece>* out);

  const StateLayout* layout_;
  int64_t final_position_;
  // KV: the next position that has not left; recurrent: the final position once it has left.
  std::vector<int64_t> next_;
  size_t layers_left_;
};

}  // namespace baton
