#include "common/model/forward.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/compute/bf16.h"
#include "common/compute/matmul.h"

namespace baton {
namespace {

// Floats of one thread's share of row-wise work, and multiply-adds of its share of the mixers': tens of microseconds.
constexpr int64_t kRowWork = 1 << 13;
constexpr int64_t kMixerWork = 1 << 18;

float EmbeddingScale(const ModelConfig& config, ComputeMode compute) {
  const float scale = std::sqrt(static_cast<float>(config.hidden_size));
  const bool round = config.always_round_embedding_scale || compute == ComputeMode::kBF16;
  return round ? RoundToBf16(scale) : scale;
}

}  // namespace

ForwardPass::ForwardPass(const ModelConfig& config, const ModelWeights& weights, ComputeMode compute, ThreadPool& pool)
    : config_(config),
      weights_(weights),
      pool_(pool),
      rounding_(compute == ComputeMode::kBF16 ? Rounding::kBf16 : Rounding::kNone),
      state_element_(compute == ComputeMode::kBF16 ? ElementType::kBF16 : ElementType::kF32),
      embedding_scale_(EmbeddingScale(config, compute)),
      rope_(config.rope_theta, config.rotary_dim) {}

void ForwardPass::Run(absl::Span<const SequenceRun> runs, absl::Span<float> logits, ForwardObserver* observer,
                      const LayerDone& layer_done) {
  for (const SequenceRun& run : runs) run.state->PrepareRun(static_cast<int64_t>(run.tokens.size()));
  PlanRows(runs);
  rope_.Prepare(pool_, positions_);
  float* x = residual_.Resize(rows_, config_.hidden_size);  // the residual stream
  float* h = normed_.Resize(rows_, config_.hidden_size);    // what a block reads
  float* y = mixed_.Resize(rows_, config_.hidden_size);     // what a block writes

  Embed();
  if (observer != nullptr) Observe(*observer, "embed", x);
  Normalize(x, weights_.layers[0].mixer_norm, h);
  for (int i = 0; i < config_.num_layers; ++i) {
    const LayerWeights& layer = weights_.layers[i];
    const bool last = i + 1 == config_.num_layers;

    if (config_.mixers[i] == MixerKind::kRecurrent) {
      RecurrentBlock(i, layer.recurrent, h, y);
    } else {
      AttentionBlock(i, layer.attention, h, y);
    }
    if (layer_done) layer_done(i);
    AddToResidual(layer.mixer_output_norm, y, &layer.mlp_norm);

    MlpBlock(layer.mlp, h, y);
    AddToResidual(layer.mlp_output_norm, y, last ? nullptr : &weights_.layers[i + 1].mixer_norm);

    if (observer != nullptr) Observe(*observer, absl::StrCat("layer", i), x);
  }
  if (observer != nullptr) {
    ForEachRow(rows_, config_.hidden_size, [&](int64_t row) {
      const int64_t at = row * config_.hidden_size;
      RmsNorm(x + at, weights_.final_norm.data(), config_.rms_norm_eps, config_.hidden_size, Rounding::kNone, h + at);
    });
    Observe(*observer, "final_norm", h);
  }
  OutputHead(logits);

  for (const SequenceRun& run : runs) run.state->Advance(static_cast<int64_t>(run.tokens.size()));
}

void ForwardPass::PlanRows(absl::Span<const SequenceRun> runs) {
  runs_ = runs;
  first_rows_.clear();
  tokens_.clear();
  positions_.clear();
  run_of_row_.clear();
  logit_rows_.clear();
  for (size_t r = 0; r < runs.size(); ++r) {
    const SequenceRun& run = runs[r];
    const int64_t first_row = static_cast<int64_t>(tokens_.size());
    first_rows_.push_back(first_row);
    for (size_t t = 0; t < run.tokens.size(); ++t) {
      tokens_.push_back(run.tokens[t]);
      positions_.push_back(run.state->position() + static_cast<int64_t>(t));
      run_of_row_.push_back(static_cast<int64_t>(r));
      if (t >= run.logits_from) logit_rows_.push_back(first_row + static_cast<int64_t>(t));
    }
  }
  rows_ = static_cast<int64_t>(tokens_.size());
  PlanTiles();
}

void ForwardPass::Embed() {
  const int64_t hidden = config_.hidden_size;
  float* x = residual_.Resize(rows_, hidden);
  ForEachRow(rows_, hidden, [&](int64_t row) {
    float* to = x + row * hidden;
    UnpackRow(weights_.embedding, tokens_[row], {to, static_cast<size_t>(hidden)});
    for (int64_t i = 0; i < hidden; ++i) to[i] *= embedding_scale_;
  });
}

void ForwardPass::MlpBlock(const MlpWeights& weights, const float* x, float* y) {
  const int64_t width = config_.mlp_width;
  float* gate = gate_.Resize(rows_, width);
  float* up = up_.Resize(rows_, width);
  Apply(weights.gate, x, gate);
  Apply(weights.up, x, up);
  ForEachRow(rows_, width, [&](int64_t row) {
    GeluGate(gate + row * width, up + row * width, width, rounding_, gate + row * width);
  });
  Apply(weights.down, gate, y);
}

void ForwardPass::OutputHead(absl::Span<float> logits) {
  if (logit_rows_.empty()) return;
  const int64_t hidden = config_.hidden_size;
  const int64_t wanted = static_cast<int64_t>(logit_rows_.size());
  const float* x = residual_.Resize(rows_, hidden);
  float* h = head_input_.Resize(wanted, hidden);
  ForEachRow(wanted, hidden, [&](int64_t i) {
    RmsNorm(x + logit_rows_[i] * hidden, weights_.final_norm.data(), config_.rms_norm_eps, hidden, rounding_,
            h + i * hidden);
  });
  MatMul(pool_, weights_.embedding, nullptr, {h, hidden, wanted}, logits.data(), config_.vocab_size);
  if (config_.final_soft_cap <= 0) return;
  pool_.ParallelFor(static_cast<int64_t>(logits.size()), kRowWork, [&](int64_t begin, int64_t end) {
    SoftCap(config_.final_soft_cap, end - begin, logits.data() + begin);
  });
}

void ForwardPass::Normalize(const float* x, const NormScale& scale, float* y) {
  const int64_t hidden = config_.hidden_size;
  ForEachRow(rows_, hidden, [&](int64_t row) {
    RmsNorm(x + row * hidden, scale.data(), config_.rms_norm_eps, hidden, rounding_, y + row * hidden);
  });
}

void ForwardPass::AddToResidual(const NormScale& output_norm, const float* y, const NormScale* next_norm) {
  const int64_t hidden = config_.hidden_size;
  float* x = residual_.Resize(rows_, hidden);
  float* h = normed_.Resize(rows_, hidden);
  ForEachRow(rows_, hidden, [&](int64_t row) {
    const int64_t at = row * hidden;
    AddRmsNorm({.update = y + at,
                .update_scale = output_norm.empty() ? nullptr : output_norm.data(),
                .residual = x + at,
                .norm_scale = next_norm == nullptr ? nullptr : next_norm->data(),
                .normed = next_norm == nullptr ? nullptr : h + at},
               config_.rms_norm_eps, hidden, rounding_);
  });
}

void ForwardPass::Apply(const LinearLayer& layer, const float* x, float* y) {
  MatMul(pool_, layer.matrix, layer.bias_or_null(), {x, layer.matrix.inputs, rows_}, y, layer.matrix.outputs);
}

void ForwardPass::Observe(ForwardObserver& observer, const std::string& what, const float* rows) const {
  observer.OnHidden(what, {rows, static_cast<size_t>(rows_ * config_.hidden_size)});
}

int64_t ForwardPass::Grain(int64_t operations) { return std::max<int64_t>(1, kMixerWork / operations); }

void ForwardPass::ForEachRow(int64_t rows, int64_t width, absl::FunctionRef<void(int64_t row)> fn) {
  pool_.ParallelFor(rows, std::max<int64_t>(1, kRowWork / width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) fn(row);
  });
}

}  // namespace baton
