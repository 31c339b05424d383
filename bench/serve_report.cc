#include "bench/serve_report.h"

#include <cmath>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/latency_json.h"
#include "common/base/version.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMillisecond = 1e-3;

std::string Milliseconds(double seconds) {
  return std::isnan(seconds) ? "-" : absl::StrFormat("%.1f", seconds / kMillisecond);
}

std::string Row(absl::string_view name, const LatencySummary& summary) {
  return absl::StrFormat("%-24s %10s %10s %10s %10s %10s %10s %9d\n", name, Milliseconds(summary.mean),
                         Milliseconds(summary.p50), Milliseconds(summary.p90), Milliseconds(summary.p95),
                         Milliseconds(summary.p99), Milliseconds(summary.max), summary.count);
}

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

std::string BoundsText(const ServiceBounds& bounds) {
  std::string text;
  if (std::isfinite(bounds.time_to_first_token)) {
    absl::StrAppend(&text, "first token within ", Milliseconds(bounds.time_to_first_token), " ms");
  }
  if (std::isfinite(bounds.inter_token)) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", "tokens every ", Milliseconds(bounds.inter_token),
                    " ms or faster");
  }
  return text;
}

}  // namespace

std::string ReportText(const ServeRun& run, const ServeReport& report) {
  const WorkloadOptions& workload = run.load.workload;
  std::string out;
  if (run.interrupted) absl::StrAppend(&out, "Interrupted: figures of what was known by then.\n");
  absl::StrAppendFormat(&out, "%s at %s: prompts %s, outputs %s, seed %d\n", run.load.model, run.load.gateway,
                        workload.prompt_tokens.text(), workload.output_tokens.text(), workload.seed);
  absl::StrAppendFormat(&out, "requests   %d arrived in %.1f s: %d completed, %d failed", report.arrived,
                        report.arrival_window, report.completed, report.failed);
  if (report.unfinished > 0) absl::StrAppendFormat(&out, ", %d unfinished", report.unfinished);
  absl::StrAppendFormat(&out, "\nrate       %.3f/s asked, %.3f/s offered, %.3f/s achieved\n", workload.rate,
                        report.offered_rate, report.completed_rate);
  absl::StrAppendFormat(&out, "tokens     %d prompt, %d output; %.1f output tokens/s\n", report.prompt_tokens,
                        report.output_tokens, report.output_tokens_rate);
  const std::string bounds = BoundsText(run.bounds);
  if (!bounds.empty()) {
    const double share = report.arrived > 0 ? 100.0 * static_cast<double>(report.good) / report.arrived : 0;
    absl::StrAppendFormat(&out, "goodput    %.3f/s, %.1f %% of what arrived: %s\n", report.goodput, share, bounds);
  }
  absl::StrAppendFormat(&out, "\n%-24s %10s %10s %10s %10s %10s %10s %9s\n", "milliseconds", "mean", "p50", "p90",
                        "p95", "p99", "max", "samples");
  absl::StrAppend(&out, Row("time to first token", report.time_to_first_token), Row("inter-token", report.inter_token),
                  Row("time per output token", report.time_per_output_token), Row("end to end", report.end_to_end),
                  Row("send delay", report.send_delay));

  if (!report.errors.empty()) absl::StrAppend(&out, "\n");
  for (const auto& [name, error] : report.errors) {
    absl::StrAppend(&out, "error      ", error.count, " x ", name, ", e.g. ", error.example, "\n");
  }
  if (run.end.held_back > 0) {
    absl::StrAppend(&out, "note       ", run.end.held_back, " requests found ", run.load.concurrency,
                    " in flight (--concurrency) and waited here; their latencies include that\n");
  }
  if (report.short_outputs > 0) {
    absl::StrAppend(&out, "note       ", report.short_outputs, " outputs are shorter than asked for\n");
  }
  if (run.workload.cut > 0) {
    absl::StrAppend(&out, "note       ", run.workload.cut, " lengths were cut to the model's ", workload.max_tokens,
                    " tokens\n");
  }
  return out;
}

std::string ReportJson(const ServeRun& run, const ServeReport& report) {
  const WorkloadOptions& workload = run.load.workload;
  Json errors = Json::array();
  for (const auto& [name, error] : report.errors) {
    errors.push_back({{"error", name}, {"count", error.count}, {"example", error.example}});
  }
  Json out;
  out["baton_version"] = kVersion;
  out["config"] = {{"gateway", run.load.gateway},
                   {"model", run.load.model},
                   {"rate", workload.rate},
                   {"duration_seconds", workload.duration},
                   {"requests", workload.requests},
                   {"warmup_seconds", workload.warmup},
                   {"prompt_tokens", workload.prompt_tokens.text()},
                   {"output_tokens", workload.output_tokens.text()},
                   {"prompts", workload.text_ids.empty() ? "random ids" : "text"},
                   {"concurrency", run.load.concurrency},
                   {"connections", run.load.connections},
                   {"timeout_seconds", run.load.timeout},
                   {"priority", run.load.priority},
                   {"temperature", run.load.temperature.has_value() ? Json(*run.load.temperature) : Json(nullptr)},
                   {"seed", workload.seed},
                   {"slo_ttft_seconds", Number(run.bounds.time_to_first_token)},
                   {"slo_itl_seconds", Number(run.bounds.inter_token)}};
  out["interrupted"] = run.interrupted;
  out["arrival_window_seconds"] = report.arrival_window;
  out["answer_window_seconds"] = report.answer_window;
  out["requests"] = {
      {"arrived", report.arrived},       {"completed", report.completed},         {"failed", report.failed},
      {"unfinished", report.unfinished}, {"short_outputs", report.short_outputs}, {"held_back", run.end.held_back},
      {"lengths_cut", run.workload.cut}};
  out["rate"] = {{"offered", report.offered_rate}, {"achieved", report.completed_rate}};
  out["tokens"] = {{"prompt", report.prompt_tokens},
                   {"output", report.output_tokens},
                   {"output_per_second", report.output_tokens_rate}};
  const bool bounded = std::isfinite(run.bounds.time_to_first_token) || std::isfinite(run.bounds.inter_token);
  out["goodput"] = bounded ? Json{{"requests_per_second", report.goodput}, {"good", report.good}} : Json(nullptr);
  out["seconds"] = {{"time_to_first_token", ToJson(report.time_to_first_token)},
                    {"inter_token", ToJson(report.inter_token)},
                    {"time_per_output_token", ToJson(report.time_per_output_token)},
                    {"end_to_end", ToJson(report.end_to_end)},
                    {"send_delay", ToJson(report.send_delay)}};
  out["errors"] = std::move(errors);
  // Messages come from servers and need not be UTF-8.
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace baton
