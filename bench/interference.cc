#include "bench/interference.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <thread>
#include <utility>

#include <grpcpp/client_context.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "baton/v1/inference.grpc.pb.h"
#include "bench/latency_json.h"
#include "bench/serve_workload.h"
#include "common/rpc/channel.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

class Interference {
 public:
  Interference(const InterferenceOptions& options, const InterferenceSetup& setup)
      : options_(options), stub_(v1::Inference::NewStub(NewChannel(setup.gateway))) {}

  absl::StatusOr<InterferenceResult> Run(const InterferenceSetup& setup) {
    begin_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.warmup));
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(options_.streams + options_.prompts_in_flight));
    for (int i = 0; i < options_.streams; ++i) threads.emplace_back([this, i] { Stream(i); });
    SleepUntil(options_.seconds);
    for (int i = 0; i < options_.prompts_in_flight; ++i) threads.emplace_back([this, i] { Prompts(i); });
    SleepUntil(2 * options_.seconds);
    stop_ = true;
    CancelAll();
    for (std::thread& thread : threads) thread.join();

    absl::MutexLock lock(&mutex_);
    if (!error_.ok()) return error_;
    InterferenceResult result;
    result.setup = setup;
    std::sort(gaps_.begin(), gaps_.end());
    std::vector<double> quiet;
    std::vector<double> loaded;
    for (const auto& [time, gap] : gaps_) {
      if (time < 0 || time >= 2 * options_.seconds) continue;
      (time < options_.seconds ? quiet : loaded).push_back(gap);
      result.gaps.emplace_back(time, gap);
    }
    if (quiet.empty() || loaded.empty() || first_tokens_.empty()) {
      return absl::UnavailableError(absl::StrCat(setup.name, ": nothing was answered in time; give it more --seconds"));
    }
    result.quiet = Summarize(std::move(quiet));
    result.loaded = Summarize(std::move(loaded));
    result.prompts_per_second = static_cast<double>(first_tokens_.size()) / options_.seconds;
    result.time_to_first_token = Summarize(first_tokens_);
    return result;
  }

 private:
  double Now() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  void SleepUntil(double time) {
    while (Now() < time && !stop_) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }

  v1::GenerateRequest MakeRequest(int64_t prompt_tokens, int64_t output_tokens, uint64_t seed) const {
    v1::GenerateRequest request;
    request.set_model(options_.model);
    std::mt19937_64 random(options_.seed * 1000003 + seed);
    const auto plain = static_cast<uint64_t>(options_.vocab_size - kFirstPlainToken);
    for (int64_t i = 0; i < prompt_tokens; ++i) {
      request.mutable_tokens()->add_ids(kFirstPlainToken + static_cast<int32_t>(random() % plain));
    }
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_new_tokens(static_cast<int32_t>(output_tokens));
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }

  // One request. `on_tokens` is called as tokens come.
  template <typename OnTokens>
  void Call(const v1::GenerateRequest& request, OnTokens on_tokens) {
    auto context = std::make_shared<grpc::ClientContext>();
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return;
      contexts_.push_back(context);
    }
    const auto stream = stub_->GenerateStream(context.get(), request);
    v1::GenerateEvent event;
    while (stream->Read(&event)) {
      if (event.has_delta() && event.delta().token_ids_size() > 0) on_tokens();
    }
    const grpc::Status status = stream->Finish();
    absl::MutexLock lock(&mutex_);
    contexts_.erase(std::find(contexts_.begin(), contexts_.end(), context));
    if (status.ok() || stop_) return;
    error_ = absl::UnavailableError(absl::StrCat("a request failed: ", status.error_message()));
    stop_ = true;
  }

  void Stream(int index) {
    for (uint64_t round = 0; !stop_; ++round) {
      const v1::GenerateRequest request = MakeRequest(options_.stream_prompt_tokens, options_.stream_output_tokens,
                                                      round * 1000 + static_cast<uint64_t>(index));
      // Until its second token, a stream waits for prefill.
      int tokens = 0;
      double last = 0;
      std::vector<std::pair<double, double>> gaps;
      Call(request, [&] {
        const double now = Now();
        if (++tokens > 2) gaps.emplace_back(now, now - last);
        last = now;
      });
      absl::MutexLock lock(&mutex_);
      gaps_.insert(gaps_.end(), gaps.begin(), gaps.end());
    }
  }

  void Prompts(int index) {
    for (uint64_t round = 0; !stop_; ++round) {
      const v1::GenerateRequest request = MakeRequest(options_.prompt_tokens, options_.prompt_output_tokens,
                                                      (round + 1) * 1000000 + static_cast<uint64_t>(index));
      const double asked = Now();
      bool first = true;
      Call(request, [&] {
        if (!std::exchange(first, false)) return;
        absl::MutexLock lock(&mutex_);
        first_tokens_.push_back(Now() - asked);
      });
    }
  }

  void CancelAll() {
    std::vector<std::shared_ptr<grpc::ClientContext>> contexts;
    {
      absl::MutexLock lock(&mutex_);
      contexts = contexts_;
    }
    for (const std::shared_ptr<grpc::ClientContext>& context : contexts) context->TryCancel();
  }

  const InterferenceOptions& options_;
  const std::unique_ptr<v1::Inference::Stub> stub_;
  // Of the quiet phase.
  Clock::time_point begin_;
  std::atomic<bool> stop_{false};
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<grpc::ClientContext>> contexts_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<double, double>> gaps_ ABSL_GUARDED_BY(mutex_);
  std::vector<double> first_tokens_ ABSL_GUARDED_BY(mutex_);
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

std::string Milliseconds(double seconds) { return absl::StrFormat("%.2f", 1000 * seconds); }

}  // namespace

absl::StatusOr<InterferenceResult> MeasureInterference(const InterferenceOptions& options,
                                                       const InterferenceSetup& setup) {
  if (options.prompt_tokens + options.prompt_output_tokens > options.max_tokens ||
      options.stream_prompt_tokens + options.stream_output_tokens > options.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model takes ", options.max_tokens, " tokens, prompt and output together"));
  }
  return Interference(options, setup).Run(setup);
}

std::string InterferenceText(const InterferenceOptions& options, const std::vector<InterferenceResult>& results) {
  std::string out = absl::StrFormat(
      "%d streams of %s, then with %d prompts of %d tokens under way at a time; %.0f s each; milliseconds between "
      "tokens\n"
      "%-20s %9s %9s %9s %9s %9s %9s %8s %10s %12s\n",
      options.streams, options.model, options.prompts_in_flight, options.prompt_tokens, options.seconds, "",
      "quiet p50", "p95", "p99", "loaded p50", "p95", "p99", "p99 of", "prompts/s", "their TTFT");
  for (const InterferenceResult& result : results) {
    absl::StrAppendFormat(&out, "%-20s %9s %9s %9s %10s %9s %9s %8.2f %10.2f %12s\n", result.setup.name,
                          Milliseconds(result.quiet.p50), Milliseconds(result.quiet.p95),
                          Milliseconds(result.quiet.p99), Milliseconds(result.loaded.p50),
                          Milliseconds(result.loaded.p95), Milliseconds(result.loaded.p99), result.P99Ratio(),
                          result.prompts_per_second, Milliseconds(result.time_to_first_token.p50));
  }
  return out;
}

std::string InterferenceJson(const InterferenceOptions& options, const std::vector<InterferenceResult>& results) {
  Json setups = Json::array();
  for (const InterferenceResult& result : results) {
    setups.push_back({{"name", result.setup.name},
                      {"gateway", result.setup.gateway},
                      {"quiet_seconds", ToJson(result.quiet)},
                      {"loaded_seconds", ToJson(result.loaded)},
                      {"p99_ratio", result.P99Ratio()},
                      {"prompts_per_second", result.prompts_per_second},
                      {"time_to_first_token_seconds", ToJson(result.time_to_first_token)}});
  }
  const Json json = {{"model", options.model},
                     {"streams", options.streams},
                     {"prompt_tokens", options.prompt_tokens},
                     {"prompts_in_flight", options.prompts_in_flight},
                     {"seconds", options.seconds},
                     {"setups", setups}};
  return json.dump(2) + "\n";
}

std::string InterferenceSvg(const InterferenceOptions& options, const std::vector<InterferenceResult>& results) {
  constexpr int kWidth = 900;
  constexpr int kLeft = 70;
  constexpr int kStrip = 190;
  constexpr int kPlot = 140;
  constexpr int kTop = 40;
  // Logarithmic, one scale for all, in decades.
  double low = 1e9;
  double high = 1e-9;
  for (const InterferenceResult& result : results) {
    low = std::min(low, result.quiet.p50);
    high = std::max(high, result.loaded.max);
  }
  low = std::pow(10, std::floor(std::log10(std::max(low, 1e-5)) - 0.5));
  high = std::pow(10, std::ceil(std::log10(std::max(high, 10 * low))));
  const double decades = std::log10(high / low);
  const double span = 2 * options.seconds;
  const auto x = [&](double time) { return kLeft + (kWidth - kLeft - 20) * time / span; };
  const int height = kTop + kStrip * static_cast<int>(results.size()) + 10;
  std::string svg = absl::StrFormat(
      "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' font-family='sans-serif' font-size='12'>\n"
      "<rect width='100%%' height='100%%' fill='white'/>\n"
      "<text x='%d' y='20' font-size='14'>Time between tokens of %d streams; prompts of %d tokens arrive in the right "
      "half</text>\n",
      kWidth, height, kLeft, options.streams, options.prompt_tokens);
  for (size_t i = 0; i < results.size(); ++i) {
    const InterferenceResult& result = results[i];
    const int top = kTop + static_cast<int>(i) * kStrip + 20;
    const auto y = [&](double gap) {
      const double share = std::log10(std::clamp(gap, low, high) / low) / decades;
      return top + kPlot * (1 - share);
    };
    absl::StrAppendFormat(&svg,
                          "<text x='%d' y='%d'>%s: p99 %s ms quiet, %s ms with long prompts (%.2f times)</text>\n"
                          "<rect x='%.1f' y='%d' width='%.1f' height='%d' fill='#fbeee6'/>\n",
                          kLeft, top - 6, result.setup.name, Milliseconds(result.quiet.p99),
                          Milliseconds(result.loaded.p99), result.P99Ratio(), x(options.seconds), top,
                          x(span) - x(options.seconds), kPlot);
    for (double line = low; line <= high * 1.001; line *= 10) {
      absl::StrAppendFormat(&svg,
                            "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#ccc'/>"
                            "<text x='%d' y='%.1f' text-anchor='end'>%g ms</text>\n",
                            kLeft, kWidth - 20, y(line), y(line), kLeft - 5, y(line) + 4, 1000 * line);
    }
    // At most a few thousand points: of each pixel column the longest gap and one more.
    std::string points;
    double column = -1;
    double longest = 0;
    double any = 0;
    const auto flush = [&] {
      if (column < 0) return;
      absl::StrAppendFormat(&points, "M%.0f %.1fh1.5M%.0f %.1fh1.5", column, y(longest), column, y(any));
    };
    for (const auto& [time, gap] : result.gaps) {
      const double at = std::floor(x(time));
      if (at != column) {
        flush();
        column = at;
        longest = 0;
        any = gap;
      }
      longest = std::max(longest, gap);
    }
    flush();
    absl::StrAppendFormat(&svg, "<path d='%s' stroke='#1f5fa8' stroke-width='2' fill='none'/>\n", points);
  }
  return svg + "</svg>\n";
}

}  // namespace baton
