// A gateway in the test's process that answers as it is told and remembers what it was asked.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "baton/v1/inference.grpc.pb.h"
#include "common/rpc/status_mapping.h"

namespace baton::cli {

class FakeGateway final : public v1::Inference::Service, public v1::Fleet::Service {
 public:
  FakeGateway() {
    grpc::ServerBuilder builder;
    grpc::EnableDefaultHealthCheckService(true);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(static_cast<v1::Inference::Service*>(this));
    builder.RegisterService(static_cast<v1::Fleet::Service*>(this));
    server_ = builder.BuildAndStart();
    AddModel("alpha", /*ready=*/true);
  }
  ~FakeGateway() override { Stop(); }
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_ = nullptr;
  }

  void SetServing(bool serving) { server_->GetHealthCheckService()->SetServingStatus(serving); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // What it answers. Set before the call.
  // Handle of the session that every answer is kept as, and whether there is none any more by the next turn.
  std::string session;
  bool sessions_expire = false;
  // When not empty: what GenerateStream sends, and nothing else.
  std::vector<v1::GenerateEvent> script;
  std::vector<std::string> deltas = {"The capital", " of France", " is Paris."};
  absl::Status failure;
  // Streams: send the deltas, then wait until the call is cancelled.
  bool hang = false;
  // Streams: end without `finished`.
  bool cut_short = false;
  v1::ListModelsResponse models;
  v1::GetStatusResponse fleet_status;
  v1::GetTraceResponse trace;
  std::function<v1::ScoreResponse(const v1::ScoreRequest&)> score;

  void AddModel(const std::string& name, bool ready) {
    v1::ModelCard* card = models.add_models();
    card->set_name(name);
    card->set_family("gemma2");
    card->set_parameters(4069632);
    card->set_max_tokens(8192);
    card->set_compute("bf16");
    card->set_weights("int8");
    card->set_fingerprint("0123456789abcdef0123456789abcdef");
    card->set_prefill_workers(1);
    card->set_decode_workers(ready ? 1 : 0);
    card->set_ready(ready);
  }

  // At any time: GetStatus does not answer, or fails.
  void HoldStatus(bool hold) {
    absl::MutexLock lock(&mutex_);
    hold_status_ = hold;
  }
  void FailStatus(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    status_failure_ = status;
  }

  // What it was asked.
  double status_window() const {
    absl::MutexLock lock(&mutex_);
    return status_window_;
  }
  std::vector<v1::GenerateRequest> requests() const {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }
  v1::GenerateRequest last_request() const {
    absl::MutexLock lock(&mutex_);
    return requests_.empty() ? v1::GenerateRequest() : requests_.back();
  }
  // The metadata of the last generation.
  std::string authorization() const {
    absl::MutexLock lock(&mutex_);
    return authorization_;
  }
  absl::Notification& arrived() { return arrived_; }
  absl::Notification& cancelled() { return cancelled_; }

 private:
  grpc::Status Remember(const v1::GenerateRequest& request) {
    absl::MutexLock lock(&mutex_);
    requests_.push_back(request);
    return ToGrpcStatus(failure);
  }

  v1::Finished MakeFinished() const {
    v1::Finished finished;
    finished.set_reason(v1::FINISH_REASON_STOP);
    finished.mutable_match()->set_eos_token_id(1);
    finished.mutable_usage()->set_prompt_tokens(14);
    finished.mutable_usage()->set_completion_tokens(static_cast<int32_t>(deltas.size()));
    finished.mutable_usage()->set_total_tokens(14 + static_cast<int32_t>(deltas.size()));
    finished.mutable_timing()->set_time_to_first_token_seconds(0.012);
    finished.mutable_timing()->set_total_seconds(0.032);
    if (!session.empty()) finished.mutable_session()->set_handle(session);
    return finished;
  }

  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        v1::GenerateResponse* response) override {
    const grpc::Status status = Remember(*request);
    if (!status.ok()) return status;
    response->set_request_id("req-1");
    response->set_model("alpha");
    response->set_seed(18446744073709551615u);
    for (size_t i = 0; i < deltas.size(); ++i) {
      response->mutable_text()->append(deltas[i]);
      response->add_token_ids(static_cast<int32_t>(i) + 100);
    }
    *response->mutable_finished() = MakeFinished();
    return grpc::Status::OK;
  }

  grpc::Status GenerateStream(grpc::ServerContext* context, const v1::GenerateRequest* request,
                              grpc::ServerWriter<v1::GenerateEvent>* writer) override {
    const auto key = context->client_metadata().find("authorization");
    {
      absl::MutexLock lock(&mutex_);
      authorization_ =
          key == context->client_metadata().end() ? "" : std::string(key->second.data(), key->second.size());
    }
    const grpc::Status status = Remember(*request);
    if (!status.ok()) return status;
    if (sessions_expire && !request->session().empty()) {
      return ToGrpcStatus(WithReason(absl::NotFoundError("gone"), "SESSION_EXPIRED"));
    }
    for (const v1::GenerateEvent& scripted : script) writer->Write(scripted);
    if (!script.empty()) return grpc::Status::OK;
    v1::GenerateEvent event;
    event.mutable_started()->set_request_id("req-1");
    event.mutable_started()->set_model("alpha");
    event.mutable_started()->set_seed(7);
    writer->Write(event);
    int32_t id = 100;
    for (const std::string& delta : deltas) {
      event.mutable_delta()->Clear();
      event.mutable_delta()->set_text(delta);
      event.mutable_delta()->add_token_ids(id);
      if (request->output().logprobs()) {
        v1::TokenLogprob* logprob = event.mutable_delta()->add_logprobs();
        logprob->set_id(id);
        logprob->set_logprob(-0.25F);
        logprob->set_piece(delta);
      }
      ++id;
      writer->Write(event);
    }
    if (!arrived_.HasBeenNotified()) arrived_.Notify();
    if (hang) {
      // The synchronous API has no other way to learn of a cancellation than to ask.
      while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
      cancelled_.Notify();
      return grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
    }
    if (cut_short) return grpc::Status::OK;
    *event.mutable_finished() = MakeFinished();
    writer->Write(event);
    return grpc::Status::OK;
  }

  // One id for each byte, after a BOS of 2.
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    if (!failure.ok()) return ToGrpcStatus(failure);
    const std::string text = request->has_chat() ? request->chat().messages(0).content() : request->text().text();
    if (request->has_chat() || !request->text().has_add_bos() || request->text().add_bos()) {
      response->add_ids(2);
      response->add_pieces("<bos>");
    }
    for (const char c : text) {
      response->add_ids(static_cast<unsigned char>(c));
      response->add_pieces(std::string(1, c));
    }
    return grpc::Status::OK;
  }

  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    if (!failure.ok()) return ToGrpcStatus(failure);
    for (const int32_t id : request->ids()) response->mutable_text()->push_back(static_cast<char>(id));
    return grpc::Status::OK;
  }

  grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest* request, v1::ScoreResponse* response) override {
    if (!failure.ok()) return ToGrpcStatus(failure);
    if (score) *response = score(*request);
    return grpc::Status::OK;
  }

  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    *response = models;
    return grpc::Status::OK;
  }

  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                         v1::GetStatusResponse* response) override {
    absl::MutexLock lock(&mutex_);
    status_window_ = request->window_seconds();
    const auto may_answer = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !hold_status_ || context->IsCancelled();
    };
    // Looks now and then: nobody tells of a cancelled call.
    while (!may_answer()) mutex_.AwaitWithTimeout(absl::Condition(&may_answer), absl::Milliseconds(20));
    if (!status_failure_.ok()) return ToGrpcStatus(status_failure_);
    if (!failure.ok()) return ToGrpcStatus(failure);
    *response = fleet_status;
    return grpc::Status::OK;
  }

  grpc::Status GetTrace(grpc::ServerContext*, const v1::GetTraceRequest* request,
                        v1::GetTraceResponse* response) override {
    if (!failure.ok()) return ToGrpcStatus(failure);
    *response = trace;
    response->set_request_id(request->request_id());
    return grpc::Status::OK;
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable absl::Mutex mutex_;
  std::string authorization_ ABSL_GUARDED_BY(mutex_);
  bool hold_status_ ABSL_GUARDED_BY(mutex_) = false;
  double status_window_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::GenerateRequest> requests_ ABSL_GUARDED_BY(mutex_);
  absl::Notification arrived_;
  absl::Notification cancelled_;
};

}  // namespace baton::cli
