// Small layouts, and states with contents that depend only on layer, head, position and seed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status_macros.h"
#include "common/state/sequence_state.h"
#include "common/state/state_codec.h"

namespace baton {

inline LayerStateSpec GlobalLayer(int kv_heads, int head_dim) {
  LayerStateSpec spec;
  spec.kind = LayerStateSpec::Kind::kGlobalKv;
  spec.kv_heads = kv_heads;
  spec.head_dim = head_dim;
  return spec;
}

inline LayerStateSpec WindowLayer(int kv_heads, int head_dim, int64_t visible_keys) {
  LayerStateSpec spec = GlobalLayer(kv_heads, head_dim);
  spec.kind = LayerStateSpec::Kind::kWindowKv;
  spec.visible_keys = visible_keys;
  return spec;
}

inline LayerStateSpec RecurrentLayer(int width, int conv_history) {
  LayerStateSpec spec;
  spec.kind = LayerStateSpec::Kind::kRecurrent;
  spec.width = width;
  spec.conv_history = conv_history;
  return spec;
}

inline std::shared_ptr<StateLayout> MakeLayout(std::vector<LayerStateSpec> layers,
                                               ElementType element = ElementType::kBF16, int page_tokens = 8,
                                               int max_run_tokens = 1) {
  auto layout = std::make_shared<StateLayout>();
  layout->layers = std::move(layers);
  layout->element = element;
  layout->page_tokens = page_tokens;
  layout->max_run_tokens = max_run_tokens;
  return layout;
}

// One layer of each kind.
inline std::shared_ptr<StateLayout> MixedLayout(ElementType element = ElementType::kBF16, int page_tokens = 8,
                                                int max_run_tokens = 1) {
  return MakeLayout({GlobalLayer(2, 4), WindowLayer(1, 6, 5), RecurrentLayer(10, 3)}, element, page_tokens,
                    max_run_tokens);
}

inline SequenceState MakeState(std::shared_ptr<const StateLayout> layout, MemoryBudget& budget, int64_t max_tokens) {
  absl::StatusOr<SequenceState> state = SequenceState::Create(std::move(layout), budget, max_tokens);
  BATON_CHECK(state.ok());
  return *std::move(state);
}

// A float that bfloat16 holds exactly, in (-4, 4).
inline float TestValue(uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
  uint64_t mixed = seed;
  for (uint64_t part : {a, b, c}) mixed = (mixed ^ part) * 0x9E3779B97F4A7C15 + (mixed >> 29);
  return (static_cast<int>((mixed >> 40) & 0xFF) - 128) / 32.0f;
}

// Runs `tokens` positions through the state as a forward pass would: KV rows written, recurrent state replaced.
inline void RunTokens(SequenceState& state, int64_t tokens, uint64_t seed = 1) {
  const StateLayout& layout = state.layout();
  const int64_t begin = state.position();
  for (size_t layer = 0; layer < layout.layers.size(); ++layer) {
    const LayerStateSpec& spec = layout.layers[layer];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
      absl::Span<float> rg_lru = state.RgLruState(layer);
      for (size_t i = 0; i < rg_lru.size(); ++i) rg_lru[i] = TestValue(seed, layer, begin + tokens, i) / 3;
      absl::Span<std::byte> conv = state.ConvState(layer);
      for (size_t i = 0; i < conv.size(); ++i) {
        conv[i] = static_cast<std::byte>(static_cast<int>(8 * TestValue(seed, layer, begin + tokens, 1000 + i)));
      }
      continue;
    }
    std::vector<float> k(spec.kv_heads * spec.head_dim);
    std::vector<float> v(k.size());
    for (int64_t position = begin; position < begin + tokens; ++position) {
      for (size_t i = 0; i < k.size(); ++i) {
        k[i] = TestValue(seed, layer, position, i);
        v[i] = TestValue(seed + 77, layer, position, i);
      }
      state.WriteKv(layer, position, k, v);
    }
  }
  state.Advance(tokens);
}

// What a decoder at the state's position can see of it, as bytes: equal strings mean equal continuations.
inline std::string VisibleBytes(const SequenceState& state) {
  const StateLayout& layout = state.layout();
  std::string bytes = std::to_string(state.position()) + ";";
  for (size_t layer = 0; layer < layout.layers.size(); ++layer) {
    const LayerStateSpec& spec = layout.layers[layer];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
      absl::Span<const float> rg_lru = state.RgLruState(layer);
      bytes.append(reinterpret_cast<const char*>(rg_lru.data()), rg_lru.size() * sizeof(float));
      absl::Span<const std::byte> conv = state.ConvState(layer);
      bytes.append(reinterpret_cast<const char*>(conv.data()), conv.size());
      continue;
    }
    const int64_t row_bytes = spec.head_dim * ElementBytes(layout.element);
    const int64_t begin = state.FirstNeededPosition(layer, state.position());
    for (int head = 0; head < spec.kv_heads; ++head) {
      std::string keys;
      std::string values;
      state.ForEachKvSpan(layer, head, begin, state.position(), [&](const KvSpan& span) {
        keys.append(reinterpret_cast<const char*>(span.keys), span.count * row_bytes);
        values.append(reinterpret_cast<const char*>(span.values), span.count * row_bytes);
      });
      bytes += keys + values;
    }
  }
  return bytes;
}

inline Fingerprint TestFingerprint(uint8_t first = 1) {
  Fingerprint fingerprint;
  for (size_t i = 0; i < fingerprint.bytes.size(); ++i) fingerprint.bytes[i] = static_cast<uint8_t>(first + i);
  return fingerprint;
}

// The whole stream of a prompt of `tokens` tokens, prefilled in chunks of at most `chunk`.
inline std::string WriteStream(SequenceState& state, int64_t tokens, int64_t chunk,
                               absl::Span<const FirstTokenRecord> first_tokens) {
  StateWriter writer(TestFingerprint(), state.layout(), tokens, KvEncoding::kExact, first_tokens.size());
  std::string stream;
  writer.AppendHeader(&stream);
  while (state.position() < tokens) {
    RunTokens(state, std::min(chunk, tokens - state.position()));
    writer.AppendPieces(state, &stream);
  }
  writer.AppendCommit(first_tokens, &stream);
  return stream;
}
inline std::string WriteStream(SequenceState& state, int64_t tokens, int64_t chunk, const FirstTokenRecord& only) {
  return WriteStream(state, tokens, chunk, {&only, 1});
}

}  // namespace baton
