#include "bench/stream_load.h"

#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "baton/v1/inference.grpc.pb.h"
#include "common/rpc/channel.h"

namespace baton {

// One call. Deletes itself.
class StreamLoad::Stream final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Stream(StreamLoad* load, std::shared_ptr<grpc::ClientContext> context)
      : load_(load), context_(std::move(context)), next_(load->options_.prompt_tokens) {}

  void Start(const std::shared_ptr<grpc::Channel>& channel) {
    v1::Inference::NewStub(channel)->async()->GenerateStream(context_.get(), &load_->options_.request, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    Take();
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) {
      problem_ = status.error_message();
    } else if (problem_.empty() && !finished_) {
      problem_ = "a stream ended without saying why";
    }
    StreamLoad* const load = load_;
    const std::string problem = std::move(problem_);
    const std::shared_ptr<grpc::ClientContext> context = context_;
    delete this;
    load->Ended(problem, context);
  }

 private:
  void Take() {
    const v1::Delta& delta = event_.delta();
    for (const int32_t id : delta.token_ids()) {
      if (id != load_->options_.token_at(next_)) problem_ = absl::StrCat("another token at position ", next_);
      ++next_;
    }
    if (!delta.token_ids().empty() && !std::exchange(begun_, true)) ++load_->begun_;
    if (!event_.has_finished()) return;
    finished_ = true;
    const int64_t told = event_.finished().usage().completion_tokens();
    if (told != next_ - load_->options_.prompt_tokens) problem_ = "a stream ended with tokens missing";
  }

  StreamLoad* const load_;
  const std::shared_ptr<grpc::ClientContext> context_;
  v1::GenerateEvent event_;
  // Position of the next token.
  int64_t next_;
  bool begun_ = false;
  bool finished_ = false;
  std::string problem_;
};

StreamLoad::StreamLoad(StreamLoadOptions options) : options_(std::move(options)) {
  for (int i = 0; i < options_.connections; ++i) channels_.push_back(NewChannel(options_.target));
}

StreamLoad::~StreamLoad() {
  Cancel();
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return contexts_.empty(); };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&none));
}

void StreamLoad::Open(int streams) {
  for (int i = 0; i < streams; ++i) {
    const auto context = std::make_shared<grpc::ClientContext>();
    {
      absl::MutexLock lock(&mutex_);
      contexts_.insert(context);
    }
    (new Stream(this, context))->Start(channels_[static_cast<size_t>(i) % channels_.size()]);
  }
}

void StreamLoad::Ended(const std::string& problem, const std::shared_ptr<grpc::ClientContext>& context) {
  ++(problem.empty() ? ended_well_ : ended_badly_);
  // Last: with no call left, this object may go.
  absl::MutexLock lock(&mutex_);
  if (!problem.empty() && problem_.empty()) problem_ = problem;
  contexts_.erase(context);
}

bool StreamLoad::AwaitFirstTokens(int64_t streams, std::chrono::seconds patience) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  while (begun_ < streams) {
    if (ended_badly_ > 0 || std::chrono::steady_clock::now() > give_up) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

bool StreamLoad::AwaitEnds(std::chrono::seconds patience) {
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return contexts_.empty(); };
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&none), absl::Seconds(patience.count()));
}

void StreamLoad::Cancel() {
  std::vector<std::shared_ptr<grpc::ClientContext>> contexts;
  {
    absl::MutexLock lock(&mutex_);
    contexts.assign(contexts_.begin(), contexts_.end());
  }
  // Without the lock: a call may end, and take it, within TryCancel.
  for (const auto& context : contexts) context->TryCancel();
}

std::string StreamLoad::problem() const {
  absl::MutexLock lock(&mutex_);
  return problem_;
}

}  // namespace baton
