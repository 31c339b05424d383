#include "gateway/gateway_metrics.h"

#include <iterator>

#include "absl/strings/ascii.h"

namespace baton {

const char* MethodName(Method method) {
  static constexpr const char* kNames[] = {"generate",   "generate_stream", "tokenize",
                                           "detokenize", "score",           "list_models"};
  return kNames[static_cast<size_t>(method)];
}

const char* OutcomeName(Outcome outcome) {
  static constexpr const char* kNames[] = {"stop",        "length",    "cancelled",       "time_limit", "ok",
                                           "invalid",     "not_found", "unauthenticated", "denied",     "overloaded",
                                           "unavailable", "deadline",  "data_loss",       "internal"};
  static_assert(std::size(kNames) == static_cast<size_t>(Outcome::kCount));
  return kNames[static_cast<size_t>(outcome)];
}

Outcome OutcomeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return Outcome::kOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return Outcome::kInvalid;
    case absl::StatusCode::kNotFound:
      return Outcome::kNotFound;
    case absl::StatusCode::kUnauthenticated:
      return Outcome::kUnauthenticated;
    case absl::StatusCode::kPermissionDenied:
      return Outcome::kDenied;
    case absl::StatusCode::kResourceExhausted:
      return Outcome::kOverloaded;
    case absl::StatusCode::kUnavailable:
      return Outcome::kUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return Outcome::kDeadline;
    case absl::StatusCode::kDataLoss:
      return Outcome::kDataLoss;
    case absl::StatusCode::kCancelled:
      return Outcome::kCancelled;
    default:
      return Outcome::kInternal;
  }
}

namespace {

// Where requests that ended like that are counted.
int64_t ActivityTotals::*CountOf(Outcome outcome) {
  switch (outcome) {
    case Outcome::kStop:
    case Outcome::kLength:
    case Outcome::kTimeLimit:
    case Outcome::kOk:
      return &ActivityTotals::completed;
    case Outcome::kCancelled:
      return &ActivityTotals::cancelled;
    case Outcome::kOverloaded:
      return &ActivityTotals::refused;
    case Outcome::kInvalid:
    case Outcome::kNotFound:
    case Outcome::kUnauthenticated:
    case Outcome::kDenied:
      return &ActivityTotals::rejected;
    case Outcome::kUnavailable:
    case Outcome::kDeadline:
    case Outcome::kDataLoss:
    case Outcome::kInternal:
    case Outcome::kCount:
      break;
  }
  return &ActivityTotals::failed;
}

}  // namespace

ModelMetrics::ModelMetrics(Metrics* metrics, const std::string& model)
    : waiting(metrics->AddGauge("baton_requests_waiting", "Requests queued.", {{"model", model}})),
      running(metrics->AddGauge("baton_requests_running", "Requests being worked on.", {{"model", model}})),
      admitted_prompt_tokens(metrics->AddCounter("baton_admitted_prompt_tokens_total",
                                                 "Prompt tokens of requests whose work began.", {{"model", model}})),
      streamed_tokens(
          metrics->AddCounter("baton_streamed_tokens_total", "Tokens delivered to clients.", {{"model", model}})),
      time_to_first_token(metrics->AddHistogram("baton_time_to_first_token_seconds",
                                                "Request accepted to first token written to the client's stream.",
                                                TtftBuckets(), {{"model", model}})),
      inter_token(metrics->AddHistogram("baton_inter_token_seconds", "Between consecutive tokens of one stream.",
                                        InterTokenBuckets(), {{"model", model}})),
      queue_seconds(metrics->AddHistogram("baton_queue_seconds", "Waiting before work starts here.",
                                          StepSecondsBuckets(), {{"model", model}})),
      prompt_tokens(
          metrics->AddHistogram("baton_request_prompt_tokens", "Prompt lengths.", TokensBuckets(), {{"model", model}})),
      output_tokens(
          metrics->AddHistogram("baton_request_output_tokens", "Output lengths.", TokensBuckets(), {{"model", model}})),
      metrics_(metrics),
      model_(model),
      reserve_retries_(metrics->AddCounter("baton_retries_total", "Attempts repeated on another worker.",
                                           {{"model", model}, {"stage", "reserve"}})),
      prefill_retries_(metrics->AddCounter("baton_retries_total", "Attempts repeated on another worker.",
                                           {{"model", model}, {"stage", "prefill"}})),
      decode_pauses_(metrics->AddCounter("baton_worker_pauses_total", "Times a failing worker's circuit opened.",
                                         {{"model", model}, {"worker_role", "decode"}})),
      prefill_pauses_(metrics->AddCounter("baton_worker_pauses_total", "Times a failing worker's circuit opened.",
                                          {{"model", model}, {"worker_role", "prefill"}})) {
  // So that it is there, and rates begin at zero.
  Resumes("decode", "lost");
  Resumed("recompute");
  Hedges("won");
  HedgesWithheld("workers");
}

prometheus::Counter& ModelMetrics::Resumes(const char* phase, const char* reason) {
  return metrics_->AddCounter("baton_resumes_total", "Streams that went on elsewhere after their workers were lost.",
                              {{"model", model_}, {"stage", phase}, {"reason", reason}});
}

prometheus::Counter& ModelMetrics::Resumed(const char* source) {
  return metrics_->AddCounter("baton_resumed_from_total", "What streams that went on elsewhere went on from.",
                              {{"model", model_}, {"source", source}});
}

prometheus::Counter& ModelMetrics::Hedges(const char* result) {
  return metrics_->AddCounter("baton_hedges_total", "Second attempts at once, beside one that was late.",
                              {{"model", model_}, {"result", result}});
}

prometheus::Counter& ModelMetrics::HedgesWithheld(const char* reason) {
  return metrics_->AddCounter("baton_hedges_withheld_total", "Requests that were late and not tried a second time.",
                              {{"model", model_}, {"reason", reason}});
}

ActivityTotals ModelMetrics::Totals() const {
  ActivityTotals totals;
  for (const Method method : {Method::kGenerate, Method::kGenerateStream, Method::kScore}) {
    const auto& row = requests_[static_cast<size_t>(method)];
    for (size_t outcome = 0; outcome < kOutcomes; ++outcome) {
      const prometheus::Counter* const counter = row[outcome].load();
      if (counter == nullptr) continue;
      totals.*CountOf(static_cast<Outcome>(outcome)) += static_cast<int64_t>(counter->Value());
    }
  }
  totals.prompt_tokens = static_cast<int64_t>(admitted_prompt_tokens.Value());
  totals.output_tokens = static_cast<int64_t>(streamed_tokens.Value());
  totals.resumes = resumes_.load(std::memory_order_relaxed);
  totals.retries = static_cast<int64_t>(reserve_retries_.Value() + prefill_retries_.Value());
  totals.worker_pauses = static_cast<int64_t>(decode_pauses_.Value() + prefill_pauses_.Value());
  totals.time_to_first_token = HistogramCounts(time_to_first_token);
  totals.inter_token = HistogramCounts(inter_token);
  return totals;
}

void ModelMetrics::CountRequest(Method method, Outcome outcome, double seconds) {
  const size_t row = static_cast<size_t>(method);
  // Adding a series that exists gives the same one, so a race makes no difference.
  std::atomic<prometheus::Counter*>& counter = requests_[row][static_cast<size_t>(outcome)];
  if (counter.load() == nullptr) {
    counter =
        &metrics_->AddCounter("baton_requests_total", "Finished requests.",
                              {{"model", model_}, {"method", MethodName(method)}, {"outcome", OutcomeName(outcome)}});
  }
  counter.load()->Increment();
  std::atomic<prometheus::Histogram*>& histogram = request_seconds_[row];
  if (histogram.load() == nullptr) {
    histogram = &metrics_->AddHistogram("baton_request_seconds", "Whole request.", RequestSecondsBuckets(),
                                        {{"model", model_}, {"method", MethodName(method)}});
  }
  histogram.load()->Observe(seconds);
}

ClientMetrics::ClientMetrics(Metrics* metrics, const std::string& client)
    : metrics_(metrics),
      client_(client),
      prompt_tokens_(metrics->AddCounter("baton_client_tokens_total", "Tokens by the client they were for.",
                                         {{"client", client}, {"kind", "prompt"}})),
      output_tokens_(metrics->AddCounter("baton_client_tokens_total", "Tokens by the client they were for.",
                                         {{"client", client}, {"kind", "output"}})) {}

void ClientMetrics::CountRequest(Outcome outcome, int64_t prompt_tokens, int64_t output_tokens) {
  std::atomic<prometheus::Counter*>& counter = requests_[static_cast<size_t>(outcome)];
  if (counter.load() == nullptr) {
    counter = &metrics_->AddCounter("baton_client_requests_total", "Finished requests by the client that sent them.",
                                    {{"client", client_}, {"outcome", OutcomeName(outcome)}});
  }
  counter.load()->Increment();
  prompt_tokens_.Increment(static_cast<double>(prompt_tokens));
  output_tokens_.Increment(static_cast<double>(output_tokens));
}

GatewayMetrics::GatewayMetrics(Metrics* metrics) : metrics_(metrics), unknown_(ForModel(kUnknownModel)) {}

ModelMetrics* GatewayMetrics::ForModel(const std::string& model) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<ModelMetrics>& entry = models_[model];
  if (entry == nullptr) entry = std::make_unique<ModelMetrics>(metrics_, model);
  return entry.get();
}

std::map<std::string, ModelMetrics*> GatewayMetrics::Models() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::map<std::string, ModelMetrics*> models;
  for (const auto& [name, metrics] : models_) models.emplace(name, metrics.get());
  return models;
}

void GatewayMetrics::SetWorkers(const WorkerCounts& counts) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [key, gauge] : workers_) {
    if (counts.count(key) == 0) gauge->Set(0);
  }
  for (const auto& [key, count] : counts) {
    prometheus::Gauge*& gauge = workers_[key];
    if (gauge == nullptr) {
      const auto& [model, stage, state] = key;
      gauge = &metrics_->AddGauge("baton_workers", "Workers known.",
                                  {{"model", model},
                                   {"worker_role", StageName(stage)},
                                   {"state", absl::AsciiStrToLower(WorkerStateName(state))}});
    }
    gauge->Set(count);
  }
}

}  // namespace baton
