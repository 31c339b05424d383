#include "common/model/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/thread_pool.h"
#include "common/model/forward.h"
#include "common/model/weights.h"

namespace baton {
namespace {

constexpr int kMaxThreads = 1024;

StateLayout LayoutOf(const ModelConfig& config, ComputeMode compute, int max_run_tokens) {
  StateLayout layout;
  layout.element = compute == ComputeMode::kBF16 ? ElementType::kBF16 : ElementType::kF32;
  layout.max_run_tokens = max_run_tokens;
  for (const MixerKind mixer : config.mixers) {
    LayerStateSpec spec;
    if (mixer == MixerKind::kRecurrent) {
      spec.kind = LayerStateSpec::Kind::kRecurrent;
      spec.width = config.lru_width;
      spec.conv_history = config.conv_width - 1;
    } else {
      const bool window = mixer == MixerKind::kWindowAttention;
      spec.kind = window ? LayerStateSpec::Kind::kWindowKv : LayerStateSpec::Kind::kGlobalKv;
      spec.kv_heads = config.num_kv_heads;
      spec.head_dim = config.head_dim;
      spec.visible_keys = window ? config.visible_keys : 0;
    }
    layout.layers.push_back(spec);
  }
  return layout;
}

Fingerprint FingerprintOf(const Checkpoint& checkpoint, const ModelOptions& options) {
  FingerprintBuilder builder;
  builder.Add("baton model");
  builder.Add(checkpoint.ContentHash());
  builder.Add(WeightPrecisionName(options.weights));
  builder.Add(int64_t{kPackedLayoutVersion});
  builder.Add(int64_t{options.config.deepmind_window});
  const StateLayout layout = LayoutOf(checkpoint.config(), ComputeModeOf(options.weights), 1);
  builder.Add(static_cast<int64_t>(layout.element));
  for (const LayerStateSpec& layer : layout.layers) {
    builder.Add(static_cast<int64_t>(layer.kind));
    builder.Add(int64_t{layer.kv_heads});
    builder.Add(int64_t{layer.head_dim});
    builder.Add(layer.visible_keys);
    builder.Add(int64_t{layer.width});
    builder.Add(int64_t{layer.conv_history});
  }
  return builder.Finish();
}

}  // namespace

absl::string_view ComputeModeName(ComputeMode mode) { return mode == ComputeMode::kF32 ? "f32" : "bf16"; }

ComputeMode ComputeModeOf(WeightPrecision weights) {
  return weights == WeightPrecision::kF32 ? ComputeMode::kF32 : ComputeMode::kBF16;
}

// Later members point into earlier ones.
struct Model::Impl {
  Impl(Checkpoint opened, const ModelOptions& options)
      : checkpoint(std::move(opened)), precision(options.weights), pool({.threads = options.threads}) {}

  Checkpoint checkpoint;
  WeightPrecision precision;
  ThreadPool pool;
  std::unique_ptr<ModelWeights> weights;
  Fingerprint fingerprint;
  std::unique_ptr<ForwardPass> forward;
};

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& directory, const ModelOptions& options) {
  BATON_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(directory, options.config));
  return Load(std::move(checkpoint), options);
}

absl::StatusOr<std::unique_ptr<Model>> Model::Load(Checkpoint checkpoint, const ModelOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: ", options.threads, " is not between 0 (one per CPU) and ", kMaxThreads));
  }
  auto impl = std::make_unique<Impl>(std::move(checkpoint), options);
  impl->fingerprint = FingerprintOf(impl->checkpoint, options);
  BATON_ASSIGN_OR_RETURN(WeightPlan plan, PlanWeights(impl->checkpoint, options.weights));
  BATON_ASSIGN_OR_RETURN(
      impl->weights, LoadWeights(impl->checkpoint, std::move(plan), options.cache_dir, impl->pool, options.observer));
  impl->forward = std::make_unique<ForwardPass>(impl->checkpoint.config(), *impl->weights,
                                                ComputeModeOf(options.weights), impl->pool);
  return std::unique_ptr<Model>(new Model(std::move(impl)));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

const ModelConfig& Model::config() const { return impl_->checkpoint.config(); }
const GenerationConfig& Model::generation() const { return impl_->checkpoint.generation(); }
const std::string& Model::tokenizer() const { return impl_->checkpoint.tokenizer(); }
WeightPrecision Model::weights() const { return impl_->precision; }
const Fingerprint& Model::fingerprint() const { return impl_->fingerprint; }
int64_t Model::parameters() const { return impl_->checkpoint.parameters(); }
int64_t Model::weight_bytes() const { return impl_->weights->bytes; }

std::shared_ptr<const StateLayout> Model::MakeStateLayout(int max_run_tokens) const {
  BATON_CHECK(max_run_tokens >= 1);
  return std::make_shared<const StateLayout>(LayoutOf(config(), compute(), max_run_tokens));
}

void Model::Forward(absl::Span<const SequenceRun> runs, absl::Span<float> logits, ForwardObserver* observer,
                    const LayerDone& layer_done) {
  if (runs.empty()) {
    BATON_CHECK(logits.empty());
    return;
  }
  size_t logit_rows = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    const SequenceRun& run = runs[r];
    BATON_CHECK(run.state != nullptr);
    for (size_t other = 0; other < r; ++other) BATON_CHECK(runs[other].state != run.state);
    const StateLayout& layout = run.state->layout();
    BATON_CHECK(layout.layers.size() == config().mixers.size());
    BATON_CHECK((layout.element == ElementType::kBF16) == (compute() == ComputeMode::kBF16));
    const int64_t tokens = static_cast<int64_t>(run.tokens.size());
    BATON_CHECK(tokens >= 1 && tokens <= layout.max_run_tokens);
    BATON_CHECK(tokens <= run.state->max_tokens() - run.state->position());
    for (const int32_t token : run.tokens) BATON_CHECK(token >= 0 && token < config().vocab_size);
    BATON_CHECK(run.logits_from <= run.tokens.size());
    logit_rows += run.tokens.size() - run.logits_from;
  }
  BATON_CHECK(logits.size() == logit_rows * static_cast<size_t>(config().vocab_size));
  impl_->forward->Run(runs, logits, observer, layer_done);
}

}  // namespace baton
