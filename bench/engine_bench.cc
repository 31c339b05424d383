#include "bench/engine_bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "bench/median.h"
#include "bench/model_costs.h"
#include "common/base/machine_memory.h"
#include "common/base/status_macros.h"
#include "common/model/synth.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;

// Longest a decoded sequence gets: context, one step to warm up, and all timed steps.
int64_t DecodedTokens(const EngineBenchOptions& options) {
  const int context = *std::max_element(options.contexts.begin(), options.contexts.end());
  return context + 1 + int64_t{options.repeats} * options.decode_steps;
}

// Into memory of its own: sequences that shared pages would share cache lines too. `to` is fresh.
void CopyState(const SequenceState& from, SequenceState& to) {
  const StateLayout& layout = from.layout();
  for (int layer = 0; layer < static_cast<int>(layout.layers.size()); ++layer) {
    const LayerStateSpec& spec = layout.layers[layer];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
      absl::c_copy(from.RgLruState(layer), to.RgLruState(layer).begin());
      absl::c_copy(from.ConvState(layer), to.ConvState(layer).begin());
      continue;
    }
    const int64_t row_bytes = spec.head_dim * ElementBytes(layout.element);
    const int64_t begin = from.FirstNeededPosition(layer, from.position());
    for (int head = 0; head < spec.kv_heads; ++head) {
      from.ForEachKvSpan(layer, head, begin, from.position(), [&](const KvSpan& span) {
        std::memcpy(to.MutableKeyRow(layer, head, span.first_position), span.keys, span.count * row_bytes);
        std::memcpy(to.MutableValueRow(layer, head, span.first_position), span.values, span.count * row_bytes);
      });
    }
  }
  to.SetPosition(from.position());
}

class EngineBench {
 public:
  EngineBench(Model& model, const EngineBenchOptions& options, MachineMeter& meter)
      : model_(model),
        options_(options),
        meter_(meter),
        budget_(ReadMachineMemory().bytes / 2),
        state_element_bytes_(model.compute() == ComputeMode::kBF16 ? 2 : 4),
        bytes_per_weight_(static_cast<double>(model.weight_bytes()) / static_cast<double>(model.parameters())) {}

  absl::StatusOr<EngineResult> Prefill(int prompt) {
    EngineResult result;
    result.phase = EngineResult::Phase::kPrefill;
    result.prompt = prompt;
    result.tokens = prompt;
    const int64_t chunks = (prompt + options_.chunk_tokens - 1) / options_.chunk_tokens;
    result.bound.flops = PrefillFlops(model_.config(), prompt);
    result.bound.bytes = static_cast<double>(chunks) * BlockWeightBytes() + HeadBytes();
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      BATON_ASSIGN_OR_RETURN(SequenceState state, MakeState(prompt, options_.chunk_tokens));
      const Clock::time_point start = Clock::now();
      Feed(state, prompt);
      const double seconds = SecondsSince(start);
      result.passes.push_back({seconds, LimitsAround()});
    }
    return result;
  }

  // One result per context. Steps alternate between the contexts, and with reads of memory, so that a machine whose
  // speed changes within a second slows all alike.
  absl::StatusOr<std::vector<EngineResult>> Decode(int batch) {
    const size_t contexts = options_.contexts.size();
    std::vector<EngineResult> results(contexts);
    std::vector<std::vector<SequenceState>> states(contexts);
    std::vector<float> logits(static_cast<size_t>(batch * model_.config().vocab_size));
    for (size_t c = 0; c < contexts; ++c) {
      const int context = options_.contexts[c];
      BATON_ASSIGN_OR_RETURN(states[c], MakeBatch(batch, context));
      Step(states[c], logits);  // touches everything once
      results[c].phase = EngineResult::Phase::kDecode;
      results[c].batch = batch;
      results[c].context = context;
      results[c].tokens = int64_t{batch} * options_.decode_steps;
      results[c].bound = DecodeBound(batch, context);
    }
    std::vector<double> seconds(contexts);
    // Before the first step and after each one.
    const double reads = 1 + static_cast<double>(options_.decode_steps) * static_cast<double>(contexts);
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      std::fill(seconds.begin(), seconds.end(), 0);
      double read_seconds_per_byte = 1 / meter_.SustainedRead();
      for (int step = 0; step < options_.decode_steps; ++step) {
        for (size_t c = 0; c < contexts; ++c) {
          const Clock::time_point start = Clock::now();
          Step(states[c], logits);
          seconds[c] += SecondsSince(start);
          read_seconds_per_byte += 1 / meter_.SustainedRead();
        }
      }
      MachineLimits limits = LimitsAround();
      limits.read_bytes_per_second = reads / read_seconds_per_byte;
      for (size_t c = 0; c < contexts; ++c) results[c].passes.push_back({seconds[c], limits});
    }
    return results;
  }

 private:
  static double SecondsSince(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // Of a pass that has just ended.
  MachineLimits LimitsAround() {
    const MachineLimits before = meter_.last();
    return Mean(before, meter_.Measure());
  }

  // Sequences that hold `context` tokens each.
  absl::StatusOr<std::vector<SequenceState>> MakeBatch(int batch, int context) {
    std::vector<SequenceState> states;
    BATON_ASSIGN_OR_RETURN(SequenceState first, MakeState(DecodedTokens(options_), options_.chunk_tokens));
    Feed(first, context);
    for (int i = 1; i < batch; ++i) {
      BATON_ASSIGN_OR_RETURN(SequenceState copy, MakeState(DecodedTokens(options_), options_.chunk_tokens));
      CopyState(first, copy);
      states.push_back(std::move(copy));
    }
    states.push_back(std::move(first));
    return states;
  }

  absl::StatusOr<SequenceState> MakeState(int64_t tokens, int run_tokens) {
    return SequenceState::Create(model_.MakeStateLayout(run_tokens), budget_, tokens);
  }

  // Any id but the three special ones.
  int32_t Token(int64_t i) const {
    constexpr int64_t kFirst = 3;
    const uint64_t ids = static_cast<uint64_t>(model_.config().vocab_size - kFirst);
    return static_cast<int32_t>(kFirst + static_cast<int64_t>(SynthRaw("bench", 1, static_cast<uint64_t>(i)) % ids));
  }

  // A prompt in chunks, logits at its end.
  void Feed(SequenceState& state, int prompt) {
    std::vector<float> logits(static_cast<size_t>(model_.config().vocab_size));
    std::vector<int32_t> tokens(static_cast<size_t>(prompt));
    for (int i = 0; i < prompt; ++i) tokens[i] = Token(i);
    for (int begin = 0; begin < prompt; begin += options_.chunk_tokens) {
      const int count = std::min(options_.chunk_tokens, prompt - begin);
      const bool last = begin + count == prompt;
      const SequenceRun run{&state, absl::MakeConstSpan(tokens).subspan(begin, count),
                            static_cast<size_t>(last ? count - 1 : count)};
      model_.Forward({run}, last ? absl::MakeSpan(logits) : absl::Span<float>());
    }
  }

  void Step(std::vector<SequenceState>& states, std::vector<float>& logits) {
    std::vector<int32_t> tokens(states.size());
    std::vector<SequenceRun> runs(states.size());
    for (size_t i = 0; i < states.size(); ++i) {
      tokens[i] = Token(next_token_++);
      runs[i] = {&states[i], absl::MakeConstSpan(&tokens[i], 1), 0};
    }
    model_.Forward(runs, absl::MakeSpan(logits));
  }

  // Of one pass, at the position halfway through all passes.
  Bound DecodeBound(int batch, int context) const {
    const int64_t middle = context + int64_t{options_.repeats} * options_.decode_steps / 2;
    const double steps = options_.decode_steps;
    const int64_t state = StateReadBytes(model_.config(), middle, state_element_bytes_);
    return {steps * batch * DecodeFlops(model_.config(), middle),
            steps * (BlockWeightBytes() + HeadBytes() + static_cast<double>(batch) * static_cast<double>(state))};
  }

  double BlockWeightBytes() const {
    return static_cast<double>(NonEmbeddingParameters(model_.config())) * bytes_per_weight_;
  }
  double HeadBytes() const {
    return static_cast<double>(model_.config().vocab_size) * model_.config().hidden_size * bytes_per_weight_;
  }

  Model& model_;
  const EngineBenchOptions& options_;
  MachineMeter& meter_;
  MemoryBudget budget_;
  const int state_element_bytes_;
  const double bytes_per_weight_;  // scales of quantised weights included
  int64_t next_token_ = 0;
};

}  // namespace

double PeakFlops(const MachineLimits& limits, ComputeMode compute) {
  const double float_peak = std::max(limits.float_flops, limits.sgemm_flops);
  if (compute == ComputeMode::kF32) return float_peak;
  return limits.MatMulPeak() > 0 ? limits.MatMulPeak() : std::max(float_peak, limits.bf16_flops);
}

double Bound::Seconds(const MachineLimits& limits, ComputeMode compute) const {
  return std::max(flops / PeakFlops(limits, compute), bytes / limits.read_bytes_per_second);
}

const char* Bound::Name(const MachineLimits& limits, ComputeMode compute) const {
  return flops / PeakFlops(limits, compute) > bytes / limits.read_bytes_per_second ? "compute" : "memory";
}

double EngineResult::MedianRate() const {
  std::vector<double> rates;
  for (const EnginePass& pass : passes) rates.push_back(static_cast<double>(tokens) / pass.seconds);
  return Median(std::move(rates));
}

double EngineResult::MinRate() const {
  double seconds = 0;
  for (const EnginePass& pass : passes) seconds = std::max(seconds, pass.seconds);
  return static_cast<double>(tokens) / seconds;
}

double EngineResult::MaxRate() const {
  double seconds = std::numeric_limits<double>::infinity();
  for (const EnginePass& pass : passes) seconds = std::min(seconds, pass.seconds);
  return static_cast<double>(tokens) / seconds;
}

double EngineResult::RatioToBound(ComputeMode compute) const {
  std::vector<double> ratios;
  for (const EnginePass& pass : passes) ratios.push_back(bound.Seconds(pass.limits, compute) / pass.seconds);
  return Median(std::move(ratios));
}

double EngineResult::SpeedOf(const EngineResult& other) const {
  std::vector<double> ratios;
  for (size_t i = 0; i < passes.size(); ++i) ratios.push_back(other.passes[i].seconds / passes[i].seconds);
  return Median(std::move(ratios));
}

MachineLimits EngineResult::Limits() const {
  std::vector<EnginePass> sorted = passes;
  const auto middle = sorted.begin() + static_cast<int64_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end(),
                   [](const EnginePass& a, const EnginePass& b) { return a.seconds < b.seconds; });
  return middle->limits;
}

absl::Status CheckEngineBench(const Model& model, const EngineBenchOptions& options) {
  int64_t longest = options.batches.empty() ? 0 : DecodedTokens(options);
  for (const int prompt : options.prompts) longest = std::max(longest, int64_t{prompt});
  if (longest <= model.config().max_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a sequence of ", longest, " tokens was asked for, but this model takes at most ", model.config().max_tokens));
}

absl::Status RunEngineBench(Model& model, const EngineBenchOptions& options, MachineMeter& meter,
                            const std::function<void(const EngineResult&)>& report) {
  BATON_RETURN_IF_ERROR(CheckEngineBench(model, options));
  EngineBench bench(model, options, meter);
  for (const int prompt : options.prompts) {
    BATON_ASSIGN_OR_RETURN(const EngineResult result, bench.Prefill(prompt));
    report(result);
  }
  for (const int batch : options.batches) {
    BATON_ASSIGN_OR_RETURN(const std::vector<EngineResult> results, bench.Decode(batch));
    for (const EngineResult& result : results) report(result);
  }
  return absl::OkStatus();
}

}  // namespace baton
