#include "gateway/inference_service.h"

#include <functional>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/status_mapping.h"
#include "gateway/generation_sink.h"
#include "gateway/request_check.h"
#include "gateway/score_session.h"
#include "gateway/violations.h"

namespace baton {
namespace {

constexpr char kRequestIdKey[] = "x-request-id";

absl::Status DrainingError() {
  return WithReason(absl::UnavailableError("the gateway is shutting down; try another or again later"), "DRAINING");
}

// A unary call that a session answers. Deletes itself.
class SessionReactor final : public grpc::ServerUnaryReactor {
 public:
  // Before the session can finish the reactor.
  void OnEvents(std::function<void()> on_cancel, std::function<void()> on_done) {
    on_cancel_ = std::move(on_cancel);
    on_done_ = std::move(on_done);
  }
  void OnCancel() override { on_cancel_(); }
  void OnDone() override {
    on_done_();
    delete this;
  }

 private:
  std::function<void()> on_cancel_;
  std::function<void()> on_done_;
};

// Answers a unary call on the spot.
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// Inside the gate until destroyed.
class GatePass {
 public:
  explicit GatePass(DrainGate* gate) : gate_(gate), inside_(gate->Enter()) {}
  ~GatePass() {
    if (inside_) gate_->Leave();
  }
  GatePass(const GatePass&) = delete;
  bool inside() const { return inside_; }

 private:
  DrainGate* const gate_;
  const bool inside_;
};

// Names the request by its own field, else the metadata, else anew, and echoes the name to the client. An unusable one
// is a violation and is replaced, so that `record` and the logs never hold it.
absl::Status NameRequest(grpc::CallbackServerContext* context, const std::string& field, RequestRecord* record) {
  std::string id = field;
  const char* source = "request_id";
  if (id.empty()) {
    const auto found = context->client_metadata().find(kRequestIdKey);
    if (found != context->client_metadata().end()) id.assign(found->second.data(), found->second.size());
    source = kRequestIdKey;
  }
  const bool usable = IsRequestId(id);
  record->request_id = usable && !id.empty() ? id : NewRequestId();
  context->AddInitialMetadata(kRequestIdKey, record->request_id);
  if (usable) return absl::OkStatus();
  Violations violations;
  violations.Add(source, "must be printable ASCII of at most 128 bytes");
  return violations.ToStatus();
}

}  // namespace

void InferenceService::AbortAll() { live_calls_.AbortAll(DrainingError()); }

absl::StatusOr<std::shared_ptr<const ServedModel>> InferenceService::FindModel(const std::string& name,
                                                                               RequestRecord* record) const {
  BATON_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, context_.catalog->Find(name));
  record->metrics = model->metrics;
  record->model = model->name;
  return model;
}

absl::StatusOr<std::shared_ptr<GenerationSession>> InferenceService::MakeGeneration(
    Method method, grpc::CallbackServerContext* context, const v1::GenerateRequest& request) {
  RequestRecord record(method, context_.metrics->unknown());
  const auto make = [&]() -> absl::StatusOr<std::shared_ptr<GenerationSession>> {
    BATON_RETURN_IF_ERROR(NameRequest(context, request.request_id(), &record));
    BATON_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, FindModel(request.model(), &record));
    BATON_ASSIGN_OR_RETURN(GenerationPlan plan, CheckGenerate(request, record.request_id, std::move(model)));
    record.prompt_tokens = static_cast<int64_t>(plan.prompt.size());
    return std::make_shared<GenerationSession>(context_.sessions, std::move(plan), record, context->deadline());
  };
  absl::StatusOr<std::shared_ptr<GenerationSession>> session = make();
  if (!session.ok()) record.Finish(session.status());
  return session;
}

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  auto pass = std::make_shared<GatePass>(context_.gate);
  if (!pass->inside()) return Answer(context, DrainingError());
  const auto made = MakeGeneration(Method::kGenerate, context, *request);
  if (!made.ok()) return Answer(context, made.status());
  const std::shared_ptr<GenerationSession> session = *made;
  const uint64_t id = live_calls_.Add([session](const absl::Status& status) { session->Abort(status); });
  auto* const reactor = new SessionReactor;
  reactor->OnEvents([session] { session->Cancel(); }, [this, id, pass] { live_calls_.Remove(id); });
  session->Start(std::make_unique<ResponseSink>(reactor, response));
  return reactor;
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::GenerateStream(grpc::CallbackServerContext* context,
                                                                              const v1::GenerateRequest* request) {
  using Writer = EventWriter<v1::GenerateEvent>;
  const auto refuse = [](const absl::Status& status) {
    auto* const writer = new Writer(1, nullptr);
    writer->handle()->Finish(ToGrpcStatus(status));
    return writer;
  };
  auto pass = std::make_shared<GatePass>(context_.gate);
  if (!pass->inside()) return refuse(DrainingError());
  const auto made = MakeGeneration(Method::kGenerateStream, context, *request);
  if (!made.ok()) return refuse(made.status());
  const std::shared_ptr<GenerationSession> session = *made;
  const uint64_t id = live_calls_.Add([session](const absl::Status& status) { session->Abort(status); });
  auto* const writer = new Writer(context_.max_queued_events, [this, session, id, pass] {
    session->Cancel();
    live_calls_.Remove(id);
  });
  session->Start(std::make_unique<StreamSink>(writer->handle()));
  return writer;
}

grpc::ServerUnaryReactor* InferenceService::Score(grpc::CallbackServerContext* context, const v1::ScoreRequest* request,
                                                  v1::ScoreResponse* response) {
  auto pass = std::make_shared<GatePass>(context_.gate);
  if (!pass->inside()) return Answer(context, DrainingError());
  RequestRecord record(Method::kScore, context_.metrics->unknown());
  const auto make = [&]() -> absl::StatusOr<std::shared_ptr<ScoreSession>> {
    BATON_RETURN_IF_ERROR(NameRequest(context, request->request_id(), &record));
    BATON_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, FindModel(request->model(), &record));
    BATON_ASSIGN_OR_RETURN(ScorePlan plan, CheckScore(*request, record.request_id, std::move(model)));
    return std::make_shared<ScoreSession>(context_.sessions, std::move(plan), record, context->deadline());
  };
  const absl::StatusOr<std::shared_ptr<ScoreSession>> made = make();
  if (!made.ok()) {
    record.Finish(made.status());
    return Answer(context, made.status());
  }
  const std::shared_ptr<ScoreSession> session = *made;
  const uint64_t id = live_calls_.Add([session](const absl::Status& status) { session->Abort(status); });
  auto* const reactor = new SessionReactor;
  reactor->OnEvents([session] { session->Cancel(); }, [this, id, pass] { live_calls_.Remove(id); });
  session->Start([reactor, response](absl::StatusOr<v1::ScoreResponse> scores) {
    if (scores.ok()) response->Swap(&*scores);
    reactor->Finish(ToGrpcStatus(scores.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  const GatePass pass(context_.gate);
  if (!pass.inside()) return Answer(context, DrainingError());
  RequestRecord record(Method::kTokenize, context_.metrics->unknown());
  const auto tokenize = [&]() -> absl::Status {
    BATON_RETURN_IF_ERROR(NameRequest(context, "", &record));
    BATON_ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, FindModel(request->model(), &record));
    BATON_ASSIGN_OR_RETURN(*response, CheckAndTokenize(*request, *model));
    return absl::OkStatus();
  };
  const absl::Status status = tokenize();
  record.Finish(status);
  return Answer(context, status);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  const GatePass pass(context_.gate);
  if (!pass.inside()) return Answer(context, DrainingError());
  RequestRecord record(Method::kDetokenize, context_.metrics->unknown());
  const auto detokenize = [&]() -> absl::Status {
    BATON_RETURN_IF_ERROR(NameRequest(context, "", &record));
    BATON_ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, FindModel(request->model(), &record));
    BATON_ASSIGN_OR_RETURN(*response, CheckAndDetokenize(*request, *model));
    return absl::OkStatus();
  };
  const absl::Status status = detokenize();
  record.Finish(status);
  return Answer(context, status);
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest* request,
                                                       v1::ListModelsResponse* response) {
  RequestRecord record(Method::kListModels, context_.metrics->unknown());
  for (const std::shared_ptr<const ServedModel>& model : context_.catalog->Models()) {
    v1::ModelCard* const card = response->add_models();
    card->set_name(model->name);
    card->set_family(model->family);
    card->set_fingerprint(absl::BytesToHexString(model->fingerprint));
    card->set_vocab_size(model->vocab_size);
    card->set_max_tokens(model->max_tokens);
    card->set_compute(model->compute);
    card->set_parameters(model->parameters);
    *card->mutable_eos_token_ids() = model->generation.eos_token_ids();
    card->set_prefill_workers(model->prefill_workers);
    card->set_decode_workers(model->decode_workers);
    card->set_ready(model->ready());
    *card->mutable_defaults() = DefaultsOf(model->generation);
  }
  record.Finish(absl::OkStatus());
  return Answer(context, absl::OkStatus());
}

}  // namespace baton
