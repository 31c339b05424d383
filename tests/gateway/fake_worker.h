// Workers as a gateway sees them, on real gRPC servers, that do what a test tells them: each call waits until the test
// takes it and is then driven step by step from the test's thread.
//
//   FakePrefill prefill;  FakeDecode decode;                  // listening, serving
//   auto run = decode.Take();                                 // waits for a Decode.Run
//   run->Push(Reserve(decode, 1));
//   auto compute = prefill.Take();
//   compute->Push(First(17));
//   run->WaitUntilOver();                                     // cancelled, or its caller went away
//
// A call the test lets go of stays open until its caller or the server ends it.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/time/time.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/base/status_macros.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/server.h"
#include "common/rpc/worker_service.h"
#include "common/state/memory_budget.h"

namespace baton {

// How long a test waits for what must happen before it calls it missing.
inline constexpr std::chrono::seconds kPatience{60};

std::string TestTokenizerBytes();
// Says what the bundled tiny-gemma2 would say, with a fingerprint made of `mark`.
worker::v1::WorkerInfo TestWorkerInfo(worker::v1::WorkerInfo::Role role, char mark = 'f');

// One call at a fake worker.
template <typename Request, typename Event>
class FakeCall {
 public:
  Request request;
  // Of its metadata; empty: none.
  std::string traceparent;
  std::string tracestate;

  bool Push(Event event) { return handle_->Push(std::move(event)); }
  void Finish(const grpc::Status& status = grpc::Status::OK) { handle_->Finish(status); }
  // True once the caller has cancelled or the call has ended otherwise; false when that does not happen.
  bool WaitUntilOver() {
    std::unique_lock<std::mutex> lock(end_->mutex);
    return end_->changed.wait_for(lock, kPatience, [this] { return end_->over; });
  }
  // The caller cancelled, as opposed to having read the end.
  bool cancelled() const { return handle_->cancelled(); }

 private:
  template <typename, typename, typename>
  friend class FakeWorker;
  struct End {
    std::mutex mutex;
    std::condition_variable changed;
    bool over = false;
  };
  std::shared_ptr<typename EventWriter<Event>::Handle> handle_;
  std::shared_ptr<End> end_ = std::make_shared<End>();
};

// `Service`: Prefill::CallbackService or Decode::CallbackService.
template <typename Service, typename Request, typename Event>
class FakeWorker : public Service {
 public:
  using Call = FakeCall<Request, Event>;

  FakeWorker(worker::v1::WorkerInfo info, int64_t state_bytes, std::string listen = "127.0.0.1:0")
      : budget_(state_bytes), load_(&budget_), info_(std::move(info)), tokenizer_(TestTokenizerBytes()) {
    info_.set_state_bytes_total(state_bytes);
    if (!info_.tokenizer_hash().empty()) info_.set_tokenizer_hash(TokenizerHash(tokenizer_));
    worker_service_ = std::make_unique<WorkerService>(info_, tokenizer_, &load_);
    RpcServerOptions options;
    options.listen = listen;
    options.max_receive_bytes = 64 << 20;
    server_ = std::make_unique<RpcServer>(options);
    server_->AddService(worker_service_.get());
    server_->AddService(this);
    BATON_CHECK(server_->Start().ok());
    address_ = server_->address();
  }
  ~FakeWorker() override { Die(); }

  // Ends as a killed process does, as far as a server can: all calls break off.
  void Die() {
    worker_service_->EndWatches();
    server_->Stop(absl::ZeroDuration());
  }

  // The next call, in order of arrival; null when none comes.
  std::shared_ptr<Call> Take() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!arrived_.wait_for(lock, kPatience, [this] { return !calls_.empty(); })) return nullptr;
    std::shared_ptr<Call> call = std::move(calls_.front());
    calls_.pop_front();
    return call;
  }
  // Calls never taken.
  size_t untaken() {
    std::lock_guard<std::mutex> lock(mutex_);
    return calls_.size();
  }
  // Runs at every arrival instead of queueing the call.
  void SetScript(std::function<void(const std::shared_ptr<Call>&)> script) {
    std::lock_guard<std::mutex> lock(mutex_);
    script_ = std::move(script);
  }

  grpc::ServerWriteReactor<Event>* Run(grpc::CallbackServerContext* context, const Request* request) override {
    auto call = std::make_shared<Call>();
    call->request = *request;
    call->traceparent = MetadataOf(*context, "traceparent");
    call->tracestate = MetadataOf(*context, "tracestate");
    auto* const writer = new EventWriter<Event>(1 << 20, [end = call->end_] {
      std::lock_guard<std::mutex> lock(end->mutex);
      end->over = true;
      end->changed.notify_all();
    });
    call->handle_ = writer->handle();
    std::function<void(const std::shared_ptr<Call>&)> script;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      script = script_;
      if (!script) {
        calls_.push_back(call);
        arrived_.notify_all();
      }
    }
    if (script) script(call);
    return writer;
  }

  const std::string& address() const { return address_; }
  const worker::v1::WorkerInfo& info() const { return info_; }
  MemoryBudget& budget() { return budget_; }
  LoadReporter& load() { return load_; }

 private:
  static std::string MetadataOf(const grpc::CallbackServerContext& context, const char* key) {
    const auto found = context.client_metadata().find(key);
    if (found == context.client_metadata().end()) return "";
    return std::string(found->second.data(), found->second.size());
  }

  MemoryBudget budget_;
  LoadReporter load_;
  worker::v1::WorkerInfo info_;
  const std::string tokenizer_;
  std::unique_ptr<WorkerService> worker_service_;
  std::unique_ptr<RpcServer> server_;
  std::string address_;

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::shared_ptr<Call>> calls_;
  std::function<void(const std::shared_ptr<Call>&)> script_;
};

class FakePrefill
    : public FakeWorker<worker::v1::Prefill::CallbackService, worker::v1::PrefillRequest, worker::v1::PrefillEvent> {
 public:
  explicit FakePrefill(char mark = 'f', const std::string& listen = "127.0.0.1:0")
      : FakeWorker(TestWorkerInfo(worker::v1::WorkerInfo::PREFILL, mark), int64_t{1} << 30, listen) {}
  explicit FakePrefill(const worker::v1::WorkerInfo& info) : FakeWorker(info, int64_t{1} << 30) {}
};

class FakeDecode
    : public FakeWorker<worker::v1::Decode::CallbackService, worker::v1::DecodeRequest, worker::v1::DecodeEvent> {
 public:
  explicit FakeDecode(char mark = 'f', int64_t state_bytes = int64_t{1} << 30,
                      const std::string& listen = "127.0.0.1:0")
      : FakeWorker(TestWorkerInfo(worker::v1::WorkerInfo::DECODE, mark), state_bytes, listen) {}
  explicit FakeDecode(const worker::v1::WorkerInfo& info) : FakeWorker(info, int64_t{1} << 30) {}

  grpc::ServerUnaryReactor* EndSamples(grpc::CallbackServerContext* context,
                                       const worker::v1::EndSamplesRequest* request,
                                       worker::v1::EndSamplesResponse*) override {
    {
      std::lock_guard<std::mutex> lock(ends_mutex_);
      ends_.push_back(*request);
    }
    auto* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  // Answers with the session that SetSession gave, if it has this id and identity.
  grpc::ServerUnaryReactor* OpenSession(grpc::CallbackServerContext* context,
                                        const worker::v1::OpenSessionRequest* request,
                                        worker::v1::OpenSessionResponse* response) override;
  void SetSession(const worker::v1::SessionKey& key, const worker::v1::OpenSessionResponse& session) {
    std::lock_guard<std::mutex> lock(ends_mutex_);
    session_key_ = key;
    session_ = session;
  }
  // Calls of EndSamples so far.
  std::vector<worker::v1::EndSamplesRequest> ends() {
    std::lock_guard<std::mutex> lock(ends_mutex_);
    return ends_;
  }

 private:
  std::mutex ends_mutex_;
  std::vector<worker::v1::EndSamplesRequest> ends_;
  worker::v1::SessionKey session_key_;
  worker::v1::OpenSessionResponse session_;
};

// Events.
worker::v1::DecodeEvent Reserve(const FakeDecode& worker, uint64_t id, int64_t bytes = 1024);
worker::v1::PrefillEvent First(int32_t id);
// Of a decode worker that computed the prompt itself.
worker::v1::DecodeEvent LocalFirst(int32_t id, int32_t cached_tokens = 0);
worker::v1::PrefillEvent FirstAndLast(int32_t id, worker::v1::DoneReason reason);
worker::v1::PrefillEvent PrefillDone();
worker::v1::PrefillEvent Scores(int32_t first, const std::vector<int32_t>& ids, float logprob = -0.5f,
                                bool is_greedy = true);
worker::v1::DecodeEvent Tokens(int64_t position, const std::vector<int32_t>& ids, int sample = 0);
worker::v1::DecodeEvent DecodeDone(worker::v1::DoneReason reason, int sample = 0);

}  // namespace baton
