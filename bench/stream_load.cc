#include "bench/stream_load.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "baton/v1/inference.grpc.pb.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/channel.h"

namespace baton {

// One call. Deletes itself.
template <typename Event>
class StreamLoad::Stream final : public grpc::ClientReadReactor<Event> {
 public:
  Stream(StreamLoad* load, size_t connection)
      : load_(load), connection_(connection), next_(load->options_.prompt_tokens) {}

  void Start(const std::shared_ptr<grpc::Channel>& channel) {
    load_->Track(context_);
    if constexpr (std::is_same_v<Event, v1::GenerateEvent>) {
      v1::Inference::NewStub(channel)->async()->GenerateStream(context_.get(), &load_->options_.request, this);
    } else {
      worker::v1::Decode::NewStub(channel)->async()->Run(context_.get(), &load_->options_.decode_request, this);
    }
    this->StartRead(&event_);
    this->StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    Take(event_);
    this->StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) {
      problem_ = status.error_message();
    } else if (problem_.empty() && !finished_) {
      problem_ = "a stream ended without saying why";
    }
    StreamLoad* const load = load_;
    const size_t connection = connection_;
    const std::string problem = std::move(problem_);
    const std::shared_ptr<grpc::ClientContext> context = context_;
    delete this;
    load->Ended(connection, problem, context.get());
  }

 private:
  void Take(const v1::GenerateEvent& event) {
    if (event.has_delta()) {
      TakeTokens(event.delta().token_ids());
      text_bytes_ += event.delta().text().size();
    }
    if (!event.has_finished()) return;
    finished_ = true;
    const int64_t told = event.finished().usage().completion_tokens();
    if (told != next_ - load_->options_.prompt_tokens) problem_ = "a stream ended with tokens missing";
    if (text_bytes_ == 0) problem_ = "a stream without text";
  }
  void Take(const worker::v1::DecodeEvent& event) {
    if (event.has_first_token()) TakeToken(event.first_token().id());
    for (const auto& chunk : event.progress().tokens()) TakeTokens(chunk.ids());
    if (!event.progress().done().empty()) finished_ = true;
  }
  template <typename Ids>
  void TakeTokens(const Ids& ids) {
    if (ids.empty()) return;
    for (const int32_t id : ids) Check(id);
    Count(ids.size());
  }
  void TakeToken(int32_t id) {
    Check(id);
    Count(1);
  }
  void Check(int32_t id) {
    if (id != load_->options_.token_at(next_)) problem_ = absl::StrCat("another token at position ", next_);
    ++next_;
  }
  void Count(int64_t tokens) {
    load_->tokens_.fetch_add(tokens, std::memory_order_relaxed);
    load_->messages_.fetch_add(1, std::memory_order_relaxed);
    if (!std::exchange(begun_, true)) ++load_->begun_;
  }

  StreamLoad* const load_;
  const size_t connection_;
  const std::shared_ptr<grpc::ClientContext> context_ = std::make_shared<grpc::ClientContext>();
  Event event_;
  // Position of the next token.
  int64_t next_;
  size_t text_bytes_ = 0;
  bool begun_ = false;
  bool finished_ = false;
  std::string problem_;
};

StreamLoad::StreamLoad(StreamLoadOptions options) : options_(std::move(options)) {
  for (int i = 0; i < options_.connections; ++i) channels_.push_back(NewChannel(options_.target));
}

StreamLoad::~StreamLoad() {
  Close();
  Cancel();
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&none));
}

void StreamLoad::Open(int streams) {
  for (int i = 0; i < streams; ++i) {
    {
      absl::MutexLock lock(&mutex_);
      ++running_;
    }
    Start(static_cast<size_t>(i) % channels_.size());
  }
}

void StreamLoad::Start(size_t connection) {
  if (options_.through_gateway) {
    (new Stream<v1::GenerateEvent>(this, connection))->Start(channels_[connection]);
  } else {
    (new Stream<worker::v1::DecodeEvent>(this, connection))->Start(channels_[connection]);
  }
}

void StreamLoad::Track(const std::shared_ptr<grpc::ClientContext>& context) {
  absl::MutexLock lock(&mutex_);
  contexts_.push_back(context);
}

void StreamLoad::Ended(size_t connection, const std::string& problem, grpc::ClientContext* context) {
  ++(problem.empty() ? ended_well_ : ended_badly_);
  const bool again = options_.renew && !closed_ && problem.empty();
  {
    absl::MutexLock lock(&mutex_);
    const auto found = std::find_if(contexts_.begin(), contexts_.end(),
                                    [context](const auto& entry) { return entry.get() == context; });
    if (found != contexts_.end()) {
      std::swap(*found, contexts_.back());
      contexts_.pop_back();
    }
    if (!problem.empty() && problem_.empty()) problem_ = problem;
  }
  if (again) return Start(connection);
  absl::MutexLock lock(&mutex_);
  --running_;
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
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&none), absl::Seconds(patience.count()));
}

void StreamLoad::Cancel() {
  std::vector<std::shared_ptr<grpc::ClientContext>> contexts;
  {
    absl::MutexLock lock(&mutex_);
    contexts = contexts_;
  }
  // Without the lock: a call may end, and take it, within TryCancel.
  for (const auto& context : contexts) context->TryCancel();
}

std::string StreamLoad::problem() const {
  absl::MutexLock lock(&mutex_);
  return problem_;
}

}  // namespace baton
