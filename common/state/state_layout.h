// What one sequence's inference state consists of, and how many bytes it takes, before anything is allocated.
//
// A layout is a pure function of a model's config and the precision of its state. Three kinds of layer state exist:
//   kGlobalKv   K and V of every position, in pages (Gemma 1; odd layers of Gemma 2)
//   kWindowKv   K and V of the last `visible_keys` positions, in pages that are dropped when they leave the window
//               (even layers of Gemma 2; attention layers of RecurrentGemma)
//   kRecurrent  one float32 RG-LRU vector and the last inputs of the temporal convolution
//
//   StateLayout layout = model->MakeStateLayout(/*max_run_tokens=*/1);
//   int64_t bytes = layout.BytesFor(prompt + max_new_tokens);   // exactly what SequenceState::Create will take
//
// Token counts may come from requests: byte counts that do not fit int64 come out as its largest value, which no budget
// holds. Pages, and the recurrent state of a layer, are counted in whole cache lines, as they are allocated.
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
  // Tokens in one page.
  int page_tokens = 64;
  // The longest run one forward call may append. A run is written before it is attended to and its first query still
  // finds its oldest key, so a window layer keeps up to visible_keys + max_run_tokens - 1 positions.
  int max_run_tokens = 1;

  // The most pages a KV layer holds at one time in a sequence of at most max_tokens tokens. Of a window layer: as many
  // as the positions it keeps can touch, wherever they begin.
  int64_t KvPages(const LayerStateSpec& layer, int64_t max_tokens) const;
  // First position whose K and V a decoder at `position` still needs: 0 for global layers,
  // max(0, position - (visible_keys - 1)) for windows. KV layers only.
  int64_t FirstNeededPosition(const LayerStateSpec& layer, int64_t position) const;
  // Bytes of one page of a KV layer: K then V, each [kv_heads, page_tokens, head_dim].
  int64_t PageBytes(const LayerStateSpec& layer) const;
  // Bytes of a recurrent layer's state: the RG-LRU vector, then the conv inputs.
  int64_t RecurrentBytes(const LayerStateSpec& layer) const;
  // Bytes of one layer's state for a sequence of at most max_tokens tokens.
  int64_t LayerBytes(const LayerStateSpec& layer, int64_t max_tokens) const;
  // Bytes of the whole state: what SequenceState::Create reserves.
  int64_t BytesFor(int64_t max_tokens) const;
  // What `forks` forks of one state at `position`, each of at most max_tokens, need beyond its BytesFor(max_tokens):
  // their own pages and vectors, and what the state will not get back of those it shares.
  int64_t ForkBytes(int64_t position, int64_t max_tokens, int forks) const;
};

}  // namespace baton
