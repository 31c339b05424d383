// What one sequence's inference state consists of, and how many bytes it takes, before anything is allocated.
//
// A layout is a pure function of a model's config and the precision of its state. Three kinds of layer state exist:
//   kGlobalKv   paged K and V of every position (Gemma 1; odd layers of Gemma 2)
//   kWindowKv   K and V of the last `visible_keys` positions, in a ring (even layers of Gemma 2; attention layers of
//               RecurrentGemma)
//   kRecurrent  one float32 RG-LRU vector and the last inputs of the temporal convolution
//
//   StateLayout layout = model->MakeStateLayout(/*max_run_tokens=*/1);
//   int64_t bytes = layout.BytesFor(prompt + max_new_tokens);   // exactly what SequenceState::Create will take
//
// Token counts may come from requests: byte counts that do not fit int64 come out as its largest value, which no budget
// holds. Every block (page, ring, recurrent state) is counted in whole cache lines, as it is allocated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baton {

enum class ElementType : uint8_t { kF32 = 0, kBF16 = 1 };

inline int64_t ElementBytes(ElementType type) { return type == ElementType::kF32 ? 4 : 2; }

struct LayerStateSpec {
  enum class Kind : uint8_t { kGlobalKv = 0, kWindowKv = 1, kRecurrent = 2 };
  Kind kind = Kind::kGlobalKv;
  // kGlobalKv, kWindowKv.
  int kv_heads = 0;
  int head_dim = 0;
  // kWindowKv: how many keys a query sees, itself included. Gemma 2: W. RecurrentGemma (DeepMind): W + 1.
  int64_t visible_keys = 0;
  // kRecurrent: RG-LRU width, and how many past conv inputs are kept (conv1d_width - 1).
  int width = 0;
  int conv_history = 0;
};

struct StateLayout {
  std::vector<LayerStateSpec> layers;
  // K, V and conv inputs. The RG-LRU vector is always float32.
  ElementType element = ElementType::kBF16;
  // Tokens in one page of global KV.
  int page_tokens = 64;
  // The longest run one forward call may append. Rings have visible_keys + max_run_tokens - 1 slots, so that a run is
  // written before it is attended to and its first query still finds its oldest key.
  int max_run_tokens = 1;

  // Slots of a window layer's ring in a sequence of at most max_tokens tokens.
  int64_t RingSlots(const LayerStateSpec& layer, int64_t max_tokens) const;
  // First position whose K and V a decoder at `position` still needs: 0 for global layers,
  // max(0, position - (visible_keys - 1)) for windows. KV layers only.
  int64_t FirstNeededPosition(const LayerStateSpec& layer, int64_t position) const;
  // Bytes of one page of a global layer: K then V, each [kv_heads, page_tokens, head_dim].
  int64_t PageBytes(const LayerStateSpec& layer) const;
  // Bytes of one layer's state for a sequence of at most max_tokens tokens.
  int64_t LayerBytes(const LayerStateSpec& layer, int64_t max_tokens) const;
  // Bytes of the whole state: what SequenceState::Create reserves.
  int64_t BytesFor(int64_t max_tokens) const;
};

}  // namespace baton
