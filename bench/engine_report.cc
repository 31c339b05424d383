#include "bench/engine_report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/bytes.h"
#include "common/base/version.h"
#include "common/compute/cpu_isa.h"

namespace baton {
namespace {

using nlohmann::ordered_json;

ordered_json LimitsJson(const MachineLimits& limits) {
  return {
      {"threads", limits.threads},
      {"cache_bytes", limits.cache_bytes},
      {"read_bytes_per_second", limits.read_bytes_per_second},
      {"matmul_flops", limits.matmul_flops},
      {"onednn_flops", limits.onednn_flops},
      {"sgemm_flops", limits.sgemm_flops},
      {"openblas_core", limits.openblas_core},
      {"float_flops", limits.float_flops},
      {"float_kernel", limits.float_kernel},
      {"bf16_flops", limits.bf16_flops},
      {"bf16_kernel", limits.bf16_kernel},
  };
}

ordered_json ResultJson(const EngineResult& result, ComputeMode compute) {
  const MachineLimits limits = result.Limits();
  const double bound_seconds = result.bound.Seconds(limits, compute);
  const bool prefill = result.phase == EngineResult::Phase::kPrefill;
  ordered_json json = {{"phase", prefill ? "prefill" : "decode"}};
  if (prefill) {
    json["prompt"] = result.prompt;
  } else {
    json["batch"] = result.batch;
    json["context"] = result.context;
  }
  json["tokens"] = result.tokens;
  std::vector<double> seconds;
  for (const EnginePass& pass : result.passes) seconds.push_back(pass.seconds);
  json["seconds"] = seconds;
  json["tokens_per_second"] = {{"median", result.MedianRate()}, {"min", result.MinRate()}, {"max", result.MaxRate()}};
  json["flops"] = result.bound.flops;
  json["bytes"] = result.bound.bytes;
  json["machine"] = LimitsJson(limits);
  json["bound"] = result.bound.Name(limits, compute);
  json["bound_tokens_per_second"] = static_cast<double>(result.tokens) / bound_seconds;
  json["ratio_to_bound"] = result.RatioToBound(compute);
  return json;
}

}  // namespace

std::string LimitsLine(const std::string& when, const MachineLimits& limits) {
  return absl::StrFormat(
      "machine %s: %d threads, read %.1f GB/s; GFLOP/s: packed products %.0f, oneDNN bf16 %.0f, SGEMM %.0f (OpenBLAS "
      "%s); on registers: %s %.0f, %s %.0f\n",
      when, limits.threads, limits.read_bytes_per_second / 1e9, limits.matmul_flops / 1e9, limits.onednn_flops / 1e9,
      limits.sgemm_flops / 1e9, limits.openblas_core, limits.float_kernel, limits.float_flops / 1e9, limits.bf16_kernel,
      limits.bf16_flops / 1e9);
}

std::string ModelLine(const EngineRun& run, const Model& model) {
  const bool billions = model.parameters() >= 1'000'000'000;
  return absl::StrFormat("model %s: %s, %.2f %s parameters, weights %s, %s, kernels %s\n", run.directory,
                         FamilyName(model.config().family),
                         static_cast<double>(model.parameters()) / (billions ? 1e9 : 1e6),
                         billions ? "billion" : "million", WeightPrecisionName(model.weights()),
                         FormatBytes(model.weight_bytes()), IsaName(CurrentIsa()));
}

std::string CacheNote(const EngineRun& run, const Model& model) {
  if (model.weight_bytes() > run.before.cache_bytes) return "";
  return absl::StrFormat("note: the weights fit the last-level cache (%s), so that memory is no bound for them\n",
                         FormatBytes(run.before.cache_bytes));
}

std::string TableHeader() {
  return absl::StrFormat("%-8s %-24s %10s %10s %10s   %-20s %-8s  %s\n", "phase", "shape", "tokens/s", "min", "max",
                         "bound (tokens/s)", "of bound", "machine around it");
}

std::string TableLine(const EngineResult& result, ComputeMode compute) {
  const MachineLimits limits = result.Limits();
  const bool prefill = result.phase == EngineResult::Phase::kPrefill;
  const std::string shape = prefill ? absl::StrCat("prompt ", result.prompt)
                                    : absl::StrCat("batch ", result.batch, ", context ", result.context);
  const double bound_seconds = result.bound.Seconds(limits, compute);
  const std::string bound = absl::StrFormat("%s %.1f", result.bound.Name(limits, compute),
                                            static_cast<double>(result.tokens) / bound_seconds);
  return absl::StrFormat("%-8s %-24s %10.1f %10.1f %10.1f   %-20s %6.1f %%  %.1f GB/s, %.0f GFLOP/s\n",
                         prefill ? "prefill" : "decode", shape, result.MedianRate(), result.MinRate(), result.MaxRate(),
                         bound, 100 * result.RatioToBound(compute), limits.read_bytes_per_second / 1e9,
                         PeakFlops(limits, compute) / 1e9);
}

std::string ContextLine(const EngineResult& result, const EngineResult& first) {
  return absl::StrFormat("%-8s batch %d: context %d at %.1f %% of the speed of context %d, step by step in turn\n",
                         "decode", result.batch, result.context, 100 * result.SpeedOf(first), first.context);
}

std::string ReportJson(const EngineRun& run, const Model& model) {
  ordered_json results = ordered_json::array();
  for (const EngineResult& result : run.results) results.push_back(ResultJson(result, model.compute()));
  const ordered_json report = {
      {"baton", kVersion},
      {"model",
       {{"directory", run.directory},
        {"family", std::string(FamilyName(model.config().family))},
        {"parameters", model.parameters()},
        {"weight_bytes", model.weight_bytes()},
        {"weights", std::string(WeightPrecisionName(model.weights()))},
        {"isa", std::string(IsaName(CurrentIsa()))}}},
      {"options",
       {{"repeats", run.options.repeats},
        {"decode_steps", run.options.decode_steps},
        {"chunk_tokens", run.options.chunk_tokens}}},
      {"machine", {{"before", LimitsJson(run.before)}, {"after", LimitsJson(run.after)}}},
      {"results", results},
  };
  // A directory's name may be anything.
  return report.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace baton
