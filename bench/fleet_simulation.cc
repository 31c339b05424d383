#include "bench/fleet_simulation.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <queue>
#include <utility>

#include "common/base/status_macros.h"
#include "common/state/prefix_chain.h"
#include "prefill/prompt_scheduler.h"

namespace baton {
namespace {

constexpr int kNoWorker = -1;

struct Request {
  RequestOutcome outcome;
  int prefill = kNoWorker;
  int decode = kNoWorker;
  int64_t cached = 0;
  double bytes = 0;
};

struct PrefillWorker {
  explicit PrefillWorker(const PromptSchedulerOptions& options) : scheduler(options) {}
  PromptScheduler scheduler;
  // What the step under way computes; empty: idle.
  std::vector<PromptChunk> step;
  double busy_seconds = 0;
};

struct DecodeWorker {
  // In the order of their turns.
  std::deque<int64_t> sequences;
  int64_t in_step = 0;
  bool stepping = false;
  // Reserved for it, from the beginning of the request to its end.
  int64_t requests = 0;
  double bytes = 0;
  double busy_seconds = 0;
};

class Simulation {
 public:
  Simulation(const FleetOptions& options, const ServiceTimes& times, const Workload& workload)
      : options_(options), times_(times), workload_(workload), results_(workload) {
    PromptSchedulerOptions scheduler;
    scheduler.step_tokens = options.chunk_tokens;
    prefill_ = std::vector<PrefillWorker>(options.prefill_workers, PrefillWorker(scheduler));
    decode_.resize(options.decode_workers);
  }

  SimulationResult Run() {
    requests_.resize(workload_.items.size());
    for (const WorkItem& item : workload_.items) {
      requests_[item.index].outcome.item = item;
      Schedule(item.arrival + options_.request_seconds, Event::kArrival, item.index);
    }
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      switch (event.kind) {
        case Event::kArrival:
          Arrive(event.subject);
          break;
        case Event::kPrefillStep:
          EndPrefillStep(static_cast<int>(event.subject));
          break;
        case Event::kState:
          JoinBatch(event.subject);
          break;
        case Event::kDecodeStep:
          EndDecodeStep(static_cast<int>(event.subject));
          break;
      }
    }
    return Result();
  }

 private:
  struct Event {
    enum Kind { kArrival, kPrefillStep, kState, kDecodeStep };
    double at;
    // Of equal times: first scheduled, first served.
    int64_t number;
    Kind kind;
    // Request or worker.
    int64_t subject;
    bool operator<(const Event& other) const { return at != other.at ? at > other.at : number > other.number; }
  };

  void Schedule(double at, Event::Kind kind, int64_t subject) {
    events_.push({at, events_scheduled_++, kind, subject});
  }

  void Arrive(int64_t index) {
    Request& request = requests_[index];
    const WorkItem& item = request.outcome.item;
    request.outcome.sent = true;
    request.outcome.sent_at = item.arrival;
    request.bytes = options_.state_bytes_fixed +
                    options_.state_bytes_token * static_cast<double>(item.prompt_tokens + item.output_tokens);
    request.decode = ChooseDecode(request.bytes);
    if (request.decode == kNoWorker) {
      ++refused_;
      request.outcome.error = "RESOURCE_EXHAUSTED";
      request.outcome.error_message = "no decode worker has room for its state";
      return End(index);
    }
    decode_[request.decode].bytes += request.bytes;
    ++decode_[request.decode].requests;

    const double cached = options_.cached_share * static_cast<double>(item.prompt_tokens);
    request.cached =
        std::min(static_cast<int64_t>(cached) / kPrefixBlockTokens * kPrefixBlockTokens, item.prompt_tokens - 1);
    const auto least = std::min_element(prefill_.begin(), prefill_.end(), [](const auto& a, const auto& b) {
      return a.scheduler.queued_tokens() < b.scheduler.queued_tokens();
    });
    request.prefill = static_cast<int>(least - prefill_.begin());
    PromptEntry entry;
    entry.id = static_cast<uint64_t>(index) + 1;
    entry.tokens = item.prompt_tokens;
    entry.expected_cached = request.cached;
    entry.first_logit_row = item.prompt_tokens - 1;
    entry.arrival_seconds = now_;
    least->scheduler.Add(entry);
    BeginPrefillStep(request.prefill);
  }

  // Most free memory; without a limit, fewest requests.
  int ChooseDecode(double bytes) const {
    int best = kNoWorker;
    for (int i = 0; i < static_cast<int>(decode_.size()); ++i) {
      const DecodeWorker& worker = decode_[i];
      if (options_.decode_memory > 0 && worker.bytes + bytes > options_.decode_memory) continue;
      if (best == kNoWorker || Load(worker) < Load(decode_[best])) best = i;
    }
    return best;
  }
  std::pair<double, int64_t> Load(const DecodeWorker& worker) const {
    return {options_.decode_memory > 0 ? worker.bytes : 0, worker.requests};
  }

  void BeginPrefillStep(int index) {
    PrefillWorker& worker = prefill_[index];
    if (!worker.step.empty()) return;
    worker.step = worker.scheduler.PlanStep([&](uint64_t id) {
      worker.scheduler.StartAt(id, requests_[id - 1].cached, {});
      return true;
    });
    if (worker.step.empty()) return;
    double seconds = 0;
    for (const PromptChunk& chunk : worker.step) {
      const auto begin = static_cast<double>(chunk.begin);
      seconds += times_.Prefill(begin, begin + static_cast<double>(chunk.tokens));
    }
    worker.busy_seconds += seconds;
    Schedule(now_ + seconds, Event::kPrefillStep, index);
  }

  void EndPrefillStep(int index) {
    PrefillWorker& worker = prefill_[index];
    for (const PromptChunk& chunk : std::exchange(worker.step, {})) {
      if (!chunk.last) continue;
      const auto request = static_cast<int64_t>(chunk.id - 1);
      Deliver(request);
      if (requests_[request].outcome.item.output_tokens == 1) {
        Leave(request);
      } else {
        Schedule(now_ + options_.handoff_seconds, Event::kState, request);
      }
    }
    BeginPrefillStep(index);
  }

  void JoinBatch(int64_t request) {
    const int index = requests_[request].decode;
    decode_[index].sequences.push_back(request);
    BeginDecodeStep(index);
  }

  void BeginDecodeStep(int index) {
    DecodeWorker& worker = decode_[index];
    if (worker.stepping || worker.sequences.empty()) return;
    worker.in_step = std::min<int64_t>(options_.max_batch, static_cast<int64_t>(worker.sequences.size()));
    double context = 0;
    for (int64_t i = 0; i < worker.in_step; ++i) {
      const RequestOutcome& outcome = requests_[worker.sequences[i]].outcome;
      context += static_cast<double>(outcome.item.prompt_tokens + outcome.tokens);
    }
    const auto batch = static_cast<double>(worker.in_step);
    const double seconds = times_.DecodeStep(batch, context / batch);
    worker.stepping = true;
    worker.busy_seconds += seconds;
    ++decode_steps_;
    decode_rows_ += worker.in_step;
    Schedule(now_ + seconds, Event::kDecodeStep, index);
  }

  void EndDecodeStep(int index) {
    DecodeWorker& worker = decode_[index];
    worker.stepping = false;
    for (int64_t i = 0; i < worker.in_step; ++i) {
      const int64_t request = worker.sequences.front();
      worker.sequences.pop_front();
      Deliver(request);
      const RequestOutcome& outcome = requests_[request].outcome;
      if (outcome.tokens < outcome.item.output_tokens) {
        worker.sequences.push_back(request);
      } else {
        Leave(request);
      }
    }
    BeginDecodeStep(index);
  }

  // A token reaches the client.
  void Deliver(int64_t index) {
    RequestOutcome& outcome = requests_[index].outcome;
    const double at = now_ + options_.request_seconds;
    if (outcome.tokens++ == 0) {
      outcome.first_token_at = at;
    } else {
      outcome.gaps.push_back(at - outcome.last_token_at);
    }
    outcome.last_token_at = at;
    results_.AddTokens(at, 1);
  }

  void Leave(int64_t index) {
    DecodeWorker& worker = decode_[requests_[index].decode];
    worker.bytes -= requests_[index].bytes;
    --worker.requests;
    End(index);
  }

  void End(int64_t index) {
    RequestOutcome& outcome = requests_[index].outcome;
    outcome.ended_at = now_ + options_.request_seconds;
    end_ = std::max(end_, outcome.ended_at);
    if (outcome.item.measured && outcome.error.empty()) {
      if (outcome.first_token_at - outcome.item.arrival <= options_.bounds.time_to_first_token) ++first_in_time_;
      const double gaps = static_cast<double>(outcome.tokens - 1);
      const double mean_gap = gaps > 0 ? (outcome.last_token_at - outcome.first_token_at) / gaps : 0;
      if (mean_gap <= options_.bounds.inter_token) ++tokens_in_time_;
    }
    results_.Add(std::move(outcome));
  }

  SimulationResult Result() const {
    SimulationResult out;
    out.report = results_.Report(end_, /*interrupted=*/false, options_.bounds);
    out.end = end_;
    for (const PrefillWorker& worker : prefill_) out.prefill_busy += worker.busy_seconds;
    for (const DecodeWorker& worker : decode_) out.decode_busy += worker.busy_seconds;
    out.prefill_busy /= end_ * static_cast<double>(prefill_.size());
    out.decode_busy /= end_ * static_cast<double>(decode_.size());
    if (decode_steps_ > 0) out.mean_batch = static_cast<double>(decode_rows_) / static_cast<double>(decode_steps_);
    out.refused = refused_;
    const auto arrived = static_cast<double>(std::max<int64_t>(1, out.report.arrived));
    out.first_token_in_time = static_cast<double>(first_in_time_) / arrived;
    out.tokens_in_time = static_cast<double>(tokens_in_time_) / arrived;
    return out;
  }

  const FleetOptions options_;
  const ServiceTimes& times_;
  const Workload& workload_;
  ServeResults results_;
  std::vector<Request> requests_;
  std::vector<PrefillWorker> prefill_;
  std::vector<DecodeWorker> decode_;
  std::priority_queue<Event> events_;
  int64_t events_scheduled_ = 0;
  double now_ = 0;
  double end_ = 0;
  int64_t decode_steps_ = 0;
  int64_t decode_rows_ = 0;
  int64_t refused_ = 0;
  int64_t first_in_time_ = 0;
  int64_t tokens_in_time_ = 0;
};

}  // namespace

SimulationResult SimulateFleet(const FleetOptions& options, const ServiceTimes& times, const Workload& workload) {
  BATON_CHECK(options.prefill_workers > 0 && options.decode_workers > 0 && options.chunk_tokens > 0);
  BATON_CHECK(options.max_batch > 0 && options.cached_share >= 0 && options.cached_share < 1);
  BATON_CHECK(!workload.items.empty());
  return Simulation(options, times, workload).Run();
}

absl::optional<FleetSize> RecommendFleet(FleetOptions options, const ServiceTimes& times, const Workload& workload,
                                         double share, int max_workers) {
  const auto simulate = [&](int prefill, int decode) {
    options.prefill_workers = prefill;
    options.decode_workers = decode;
    return FleetSize{prefill, decode, SimulateFleet(options, times, workload)};
  };
  const auto both = [&](const FleetSize& size) {
    return size.result.first_token_in_time >= share && size.result.tokens_in_time >= share;
  };
  if (!both(simulate(max_workers, max_workers))) return absl::nullopt;
  // More workers of a role never make its own bound worse, so halving finds the fewest.
  const auto fewest = [&](auto&& enough) {
    int low = 1;
    int high = max_workers;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (enough(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  };
  int prefill = fewest([&](int n) { return simulate(n, max_workers).result.first_token_in_time >= share; });
  int decode = fewest([&](int n) { return both(simulate(max_workers, n)); });
  while (true) {
    FleetSize size = simulate(prefill, decode);
    if (both(size)) return size;
    // Together they may just miss it.
    const bool late = size.result.first_token_in_time < share;
    const bool more_prefill = decode == max_workers || (late && prefill < max_workers);
    ++(more_prefill ? prefill : decode);
  }
}

}  // namespace baton
