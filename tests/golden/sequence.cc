#include "tests/golden/sequence.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "common/base/status_macros.h"
#include "common/compute/bf16.h"

namespace baton {
namespace {

// States of tests are small: no budget to speak of.
MemoryBudget& TestBudget() {
  static MemoryBudget budget(int64_t{1} << 40);
  return budget;
}

}  // namespace

absl::StatusOr<Sequence> Sequence::Create(const Model& model, int max_run, int64_t max_tokens) {
  BATON_ASSIGN_OR_RETURN(SequenceState state,
                         SequenceState::Create(model.MakeStateLayout(max_run), TestBudget(), max_tokens));
  return Sequence(std::move(state));
}

std::vector<float> Sequence::Feed(Model& model, absl::Span<const int32_t> tokens, ForwardObserver* observer) {
  const size_t max_run = state_.layout().max_run_tokens;
  std::vector<float> logits(model.config().vocab_size);
  for (size_t at = 0; at < tokens.size(); at += max_run) {
    SequenceRun run{&state_, tokens.subspan(at, max_run), 0};
    const bool last = at + run.tokens.size() == tokens.size();
    run.logits_from = last ? run.tokens.size() - 1 : run.tokens.size();
    model.Forward({&run, 1}, last ? absl::MakeSpan(logits) : absl::Span<float>(), observer);
  }
  return logits;
}

std::vector<float> Sequence::FeedForAllLogits(Model& model, absl::Span<const int32_t> tokens) {
  std::vector<float> logits(tokens.size() * model.config().vocab_size);
  const SequenceRun run{&state_, tokens, 0};
  model.Forward({&run, 1}, absl::MakeSpan(logits));
  return logits;
}

std::vector<float> Sequence::StateValues() {
  std::vector<float> all;
  const auto append = [&](const std::vector<float>& values) { all.insert(all.end(), values.begin(), values.end()); };
  for (int layer = 0; layer < static_cast<int>(state_.layout().layers.size()); ++layer) {
    if (state_.layout().layers[layer].kind == LayerStateSpec::Kind::kRecurrent) {
      const absl::Span<const float> lru = std::as_const(state_).RgLruState(layer);
      all.insert(all.end(), lru.begin(), lru.end());
      append(ConvInputs(layer));
      continue;
    }
    const int64_t end = state_.position();
    const int64_t begin = state_.FirstNeededPosition(layer, end);
    append(Keys(layer, begin, end));
    append(Values(layer, begin, end));
  }
  return all;
}

std::vector<float> Sequence::Rows(int layer, int64_t begin, int64_t end, bool values) {
  const LayerStateSpec& spec = state_.layout().layers[layer];
  std::vector<float> rows;
  for (int64_t position = begin; position < end; ++position) {
    for (int head = 0; head < spec.kv_heads; ++head) {
      Append(values ? state_.MutableValueRow(layer, head, position) : state_.MutableKeyRow(layer, head, position),
             spec.head_dim, &rows);
    }
  }
  return rows;
}

std::vector<float> Sequence::ConvInputs(int layer) {
  const LayerStateSpec& spec = state_.layout().layers[layer];
  std::vector<float> inputs;
  Append(state_.ConvState(layer).data(), int64_t{spec.conv_history} * spec.width, &inputs);
  return inputs;
}

void Sequence::Append(const std::byte* elements, int64_t count, std::vector<float>* out) const {
  for (int64_t i = 0; i < count; ++i) {
    if (state_.layout().element == ElementType::kF32) {
      float value;
      std::memcpy(&value, elements + i * sizeof(value), sizeof(value));
      out->push_back(value);
    } else {
      uint16_t bits;
      std::memcpy(&bits, elements + i * sizeof(bits), sizeof(bits));
      out->push_back(Bf16ToFloat(bits));
    }
  }
}

int32_t ArgMax(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace baton
