#include "bench/serve_load.h"

#include <algorithm>
#include <utility>

#include <grpcpp/client_context.h>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

constexpr double kProgressInterval = 1;

std::string ErrorName(const absl::Status& status) {
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string reason = ErrorReason(status);
  return reason.empty() ? code : absl::StrCat(code, " ", reason);
}

}  // namespace

// One call. Deletes itself when over.
class ServeLoad::Stream final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Stream(ServeLoad* load, const WorkItem& item) : load_(load) { outcome_.item = item; }

  void Start(v1::Inference::Stub* stub) {
    const ServeLoadOptions& options = load_->options_;
    const WorkItem& item = outcome_.item;
    request_.set_model(options.model);
    const std::vector<int32_t> prompt = MakePrompt(options.workload, item);
    request_.mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
    request_.mutable_sampling()->set_seed(options.workload.seed + static_cast<uint64_t>(item.index));
    if (options.temperature.has_value()) request_.mutable_sampling()->set_temperature(*options.temperature);
    request_.mutable_stopping()->set_max_new_tokens(static_cast<int32_t>(item.output_tokens));
    request_.mutable_stopping()->set_ignore_eos(true);
    request_.mutable_output()->set_token_ids(true);
    request_.set_priority(options.priority);
    request_.set_request_id(absl::StrCat("bench-", options.workload.seed, "-", item.index));

    outcome_.sent = true;
    outcome_.sent_at = load_->Now();
    // gRPC deadlines are on the system clock.
    const double left = item.arrival + options.timeout - outcome_.sent_at;
    context_->set_deadline(std::chrono::system_clock::now() +
                           std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::duration<double>(left)));
    stub->async()->GenerateStream(context_.get(), &request_, this);
    StartRead(&event_);
    StartCall();
  }

  std::shared_ptr<grpc::ClientContext> context() const { return context_; }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.has_delta() && event_.delta().token_ids_size() > 0) TakeTokens(event_.delta().token_ids_size());
    if (event_.has_finished()) finished_ = true;
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    outcome_.ended_at = load_->Now();
    if (!status.ok()) {
      const absl::Status error = FromGrpcStatus(status);
      outcome_.error = ErrorName(error);
      outcome_.error_message = std::string(error.message());
    } else if (!finished_) {
      outcome_.error = "OK WITHOUT FINISHED";
      outcome_.error_message = "the stream ended without a finished event";
    }
    // Gone before the run can know: the last one to let go of a channel must not be a thread of gRPC's own.
    ServeLoad* const load = load_;
    RequestOutcome outcome = std::move(outcome_);
    delete this;
    load->Ended(std::move(outcome));
  }

 private:
  void TakeTokens(int64_t count) {
    const double now = load_->Now();
    if (outcome_.tokens == 0) {
      outcome_.first_token_at = now;
    } else {
      outcome_.gaps.push_back(now - outcome_.last_token_at);
    }
    outcome_.last_token_at = now;
    outcome_.tokens += count;
    load_->results_->AddTokens(now, count);
  }

  ServeLoad* const load_;
  // Shared with the run, which cancels.
  const std::shared_ptr<grpc::ClientContext> context_ = std::make_shared<grpc::ClientContext>();
  v1::GenerateRequest request_;
  v1::GenerateEvent event_;
  bool finished_ = false;
  RequestOutcome outcome_;
};

ServeLoad::ServeLoad(ServeLoadOptions options, const Workload& workload, ServeResults* results)
    : options_(std::move(options)), workload_(workload), results_(results) {
  for (int i = 0; i < std::max(1, options_.connections); ++i) {
    stubs_.push_back(v1::Inference::NewStub(NewChannel(options_.gateway)));
  }
}

ServeLoad::~ServeLoad() {
  absl::MutexLock lock(&mutex_);
  BATON_CHECK(calls_.empty());
}

double ServeLoad::Now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

void ServeLoad::Run(const std::function<void(const Progress&)>& on_progress) {
  begin_ = std::chrono::steady_clock::now();
  for (const WorkItem& item : workload_.items) {
    const auto never = [] { return false; };
    if (Wait(item.arrival, never, on_progress) == Waited::kInterrupted) break;
    const Waited room = WaitForRoom(item.arrival + options_.timeout, on_progress);
    if (room == Waited::kInterrupted) break;
    if (room == Waited::kReady) {
      Start(item);
    } else {
      AddUnsent(item);
    }
  }
  // Every call has a deadline, so this ends.
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (!calls_.empty()) changed_.WaitWithTimeout(&mutex_, absl::Seconds(kProgressInterval));
      if (calls_.empty()) return;
    }
    on_progress(progress());
  }
}

ServeLoad::Waited ServeLoad::Wait(double until, absl::FunctionRef<bool()> ready,
                                  const std::function<void(const Progress&)>& on_progress) {
  double next_progress = Now() + kProgressInterval;
  while (true) {
    const double now = Now();
    if (now >= next_progress) {
      on_progress(progress());
      next_progress = now + kProgressInterval;
    }
    absl::MutexLock lock(&mutex_);
    if (interrupted_) return Waited::kInterrupted;
    if (now >= until) return Waited::kTimeUp;
    if (ready()) return Waited::kReady;
    changed_.WaitWithTimeout(&mutex_, absl::Seconds(std::min(until, next_progress) - now));
  }
}

ServeLoad::Waited ServeLoad::WaitForRoom(double give_up, const std::function<void(const Progress&)>& on_progress) {
  const auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return static_cast<int64_t>(calls_.size()) < options_.concurrency;
  };
  {
    absl::MutexLock lock(&mutex_);
    if (!room()) ++held_back_;
  }
  return Wait(give_up, room, on_progress);
}

void ServeLoad::Start(const WorkItem& item) {
  auto* stream = new Stream(this, item);
  {
    absl::MutexLock lock(&mutex_);
    calls_.emplace(item.index, stream->context());
    ++sent_;
  }
  stream->Start(stubs_[item.index % stubs_.size()].get());
}

void ServeLoad::AddUnsent(const WorkItem& item) {
  RequestOutcome outcome;
  outcome.item = item;
  outcome.ended_at = Now();
  outcome.error = "NOT SENT";
  outcome.error_message = "no room among the requests in flight (--concurrency) before its time was over (--timeout)";
  results_->Add(std::move(outcome));
}

void ServeLoad::Ended(RequestOutcome outcome) {
  const int64_t index = outcome.item.index;
  {
    absl::MutexLock lock(&mutex_);
    outcome.interrupted = interrupted_ && !outcome.error.empty();
  }
  results_->Add(std::move(outcome));
  // Last: with no call left, Run returns and this object may go.
  absl::MutexLock lock(&mutex_);
  calls_.erase(index);
  changed_.SignalAll();
}

void ServeLoad::Interrupt() {
  std::vector<std::shared_ptr<grpc::ClientContext>> contexts;
  {
    absl::MutexLock lock(&mutex_);
    interrupted_ = true;
    for (const auto& [index, context] : calls_) contexts.push_back(context);
    changed_.SignalAll();
  }
  // Without the lock: a call may end, and take it, within TryCancel.
  for (const std::shared_ptr<grpc::ClientContext>& context : contexts) context->TryCancel();
}

bool ServeLoad::interrupted() const {
  absl::MutexLock lock(&mutex_);
  return interrupted_;
}

ServeLoad::Progress ServeLoad::progress() const {
  Progress progress;
  progress.seconds = Now();
  absl::MutexLock lock(&mutex_);
  progress.sent = sent_;
  progress.in_flight = static_cast<int64_t>(calls_.size());
  progress.held_back = held_back_;
  return progress;
}

}  // namespace baton
