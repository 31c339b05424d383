#include "gateway/inference_service.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/trace_metadata.h"
#include "gateway/generation_sink.h"
#include "gateway/request_check.h"
#include "gateway/score_session.h"
#include "gateway/session_handle.h"
#include "gateway/session_opening.h"
#include "gateway/violations.h"

namespace baton {
namespace {

constexpr char kRequestIdKey[] = "x-request-id";

absl::Status DrainingError() {
  return WithReason(absl::UnavailableError("the gateway is shutting down; try another or again later"), "DRAINING");
}

absl::Status TooManyLargeRequests() {
  return WithRetryAfter(absl::ResourceExhaustedError("too many large requests are being tokenized; try again later"),
                        absl::Seconds(1), "QUEUE_FULL");
}

// A unary call that a session answers. Deletes itself.
class SessionReactor final : public grpc::ServerUnaryReactor {
 public:
  SessionReactor(std::function<void()> on_cancel, std::function<void()> on_done)
      : on_cancel_(std::move(on_cancel)), on_done_(std::move(on_done)) {}
  void OnCancel() override { on_cancel_(); }
  void OnDone() override {
    on_done_();
    delete this;
  }

 private:
  const std::function<void()> on_cancel_;
  const std::function<void()> on_done_;
};

std::shared_ptr<const ClientLimits> NoLimits() {
  static const auto* const limits = new std::shared_ptr<const ClientLimits>(std::make_shared<const ClientLimits>());
  return *limits;
}

absl::Status PriorityNotAllowed(int largest) {
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat("`priority` is above ", largest, ", the highest this API key may use")),
      "PRIORITY_NOT_ALLOWED");
}

// Null: not traced.
const char* SpanName(Method method) {
  switch (method) {
    case Method::kGenerate:
      return "baton.v1.Inference/Generate";
    case Method::kGenerateStream:
      return "baton.v1.Inference/GenerateStream";
    case Method::kScore:
      return "baton.v1.Inference/Score";
    default:
      return nullptr;
  }
}

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

// Calls that workers have a part in. The client learns the trace's id.
void BeginTrace(grpc::CallbackServerContext* context, Tracer* tracer, RequestRecord* record) {
  const char* const name = SpanName(record->method);
  if (tracer == nullptr || name == nullptr) return;
  const absl::optional<TraceContext> parent = TraceParent(context->client_metadata());
  record->span = tracer->Begin(name, parent, record->request_id, record->identity);
  const absl::optional<TraceContext> trace = record->span.context();
  // There is no span of ours to tell of where a context is only passed on.
  if (!trace.has_value() || (parent.has_value() && parent->span_id == trace->span_id)) return;
  context->AddInitialMetadata(kTraceresponseKey, FormatTraceparent(*trace));
  record->span.Set("rpc.system", "grpc");
  record->span.Set("baton.request_id", record->request_id);
  const bool generates = record->method != Method::kScore;
  if (generates) record->span.Set("gen_ai.operation.name", "text_completion");
}

}  // namespace

InferenceService::InferenceService(const InferenceContext& context) : context_(context) {
  absl::MutexLock lock(&link_->mutex);
  link_->service = this;
}

InferenceService::~InferenceService() {
  absl::MutexLock lock(&link_->mutex);
  link_->service = nullptr;
}

void InferenceService::AbortAll() { live_calls_.AbortAll(DrainingError()); }

absl::StatusOr<std::shared_ptr<const ServedModel>> InferenceService::Identify(grpc::CallbackServerContext* context,
                                                                              const std::string& request_id,
                                                                              const std::string& model_name,
                                                                              int priority,
                                                                              RequestRecord* record) const {
  const absl::Status named = NameRequest(context, request_id, record);
  BATON_ASSIGN_OR_RETURN(Caller caller,
                         context_.authenticator->Authenticate(context->client_metadata(), context->peer()));
  record->identity = std::move(caller.identity);
  record->client = std::move(caller.client);
  BeginTrace(context, context_.tracer, record);
  std::shared_ptr<const ClientLimits> limits = NoLimits();
  if (record->client != nullptr) {
    limits = record->client->limits();
    BATON_ASSIGN_OR_RETURN(record->pass, record->client->Admit(Clock::now()));
  }
  BATON_RETURN_IF_ERROR(named);
  BATON_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, context_.catalog->Find(model_name, *limits));
  // Beyond kMaxPriority it is invalid, whoever asks.
  if (priority > limits->max_priority && priority <= kMaxPriority) return PriorityNotAllowed(limits->max_priority);
  record->metrics = model->metrics;
  record->model = model->name;
  return model;
}

template <typename Session, typename Request, typename Check>
void InferenceService::CheckAndStart(const std::shared_ptr<Session>& session, const Request& request,
                                     const std::string& request_id,
                                     absl::StatusOr<std::shared_ptr<const ServedModel>> model, Check check) {
  if (!model.ok()) return session->Start(model.status());
  const size_t bytes = request.ByteSizeLong();
  if (bytes <= TextLane::kSmallBytes) return session->Start(check(request, request_id, *model));
  // A cancelled call, and the request with it, may be gone before its check is done.
  const auto copy = std::make_shared<const Request>(request);
  const bool accepted =
      context_.text_lane->Run(bytes, [=, model = *model] { session->Start(check(*copy, request_id, model)); });
  if (!accepted) session->Start(TooManyLargeRequests());
}

void InferenceService::StartGeneration(grpc::CallbackServerContext* context,
                                       const std::shared_ptr<GenerationSession>& session,
                                       const v1::GenerateRequest& request, const RequestRecord& record,
                                       absl::StatusOr<std::shared_ptr<const ServedModel>> model) {
  const std::string& request_id = record.request_id;
  const std::string identity = record.identity;
  const auto check = [identity](const absl::optional<SessionPrefix>& prefix) {
    return [identity, prefix](const v1::GenerateRequest& asked, const std::string& id,
                              std::shared_ptr<const ServedModel> served) {
      return CheckGenerate(asked, id, std::move(served), identity, prefix);
    };
  };
  if (!model.ok() || request.session().empty()) {
    return CheckAndStart(session, request, request_id, std::move(model), check(absl::nullopt));
  }
  const absl::optional<SessionHandle> handle = ParseSessionHandle(request.session());
  if (!handle.has_value()) return session->Start(SessionExpired());
  worker::v1::OpenSessionRequest open;
  open.mutable_key()->set_id(handle->id);
  open.mutable_key()->set_identity(identity);
  open.set_fingerprint((*model)->fingerprint);
  // The call may be cancelled, and the request gone with it, before the answer is there.
  const auto copy = std::make_shared<const v1::GenerateRequest>(request);
  const Span opening = record.span.Child("open session");
  OpenSession(context_.sessions.router->DecodeWorkers((*model)->fingerprint, handle->boot_id), open,
              (*model)->vocab_size, context->deadline(),
              [link = link_, session, copy, request_id, model, check, opening](absl::StatusOr<SessionPrefix> prefix) {
                if (!prefix.ok()) opening.Fail(prefix.status().message());
                opening.End();
                if (!prefix.ok()) return session->Start(prefix.status());
                absl::MutexLock lock(&link->mutex);
                if (link->service == nullptr) return session->Start(DrainingError());
                link->service->CheckAndStart(session, *copy, request_id, model, check(*std::move(prefix)));
              });
}

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  const auto pass = std::make_shared<GatePass>(context_.gate);
  if (!pass->inside()) return Answer(context, DrainingError());
  RequestRecord record(Method::kGenerate, context_.metrics->unknown());
  auto model = Identify(context, request->request_id(), request->model(), request->priority(), &record);
  const auto session = std::make_shared<GenerationSession>(context_.sessions, record, context->deadline());
  const uint64_t id = live_calls_.Add([session](const absl::Status& status) { session->Abort(status); });
  auto* const reactor =
      new SessionReactor([session] { session->Cancel(); }, [this, id, pass] { live_calls_.Remove(id); });
  session->Open(std::make_unique<ResponseSink>(reactor, response));
  StartGeneration(context, session, *request, record, std::move(model));
  return reactor;
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::GenerateStream(grpc::CallbackServerContext* context,
                                                                              const v1::GenerateRequest* request) {
  using Writer = EventWriter<v1::GenerateEvent>;
  const auto pass = std::make_shared<GatePass>(context_.gate);
  if (!pass->inside()) {
    auto* const refusal = new Writer(1, nullptr);
    refusal->handle()->Finish(ToGrpcStatus(DrainingError()));
    return refusal;
  }
  RequestRecord record(Method::kGenerateStream, context_.metrics->unknown());
  auto model = Identify(context, request->request_id(), request->model(), request->priority(), &record);
  const auto session = std::make_shared<GenerationSession>(context_.sessions, record, context->deadline());
  const uint64_t id = live_calls_.Add([session](const absl::Status& status) { session->Abort(status); });
  // Each choice may be as far behind as a single one.
  const size_t choices = static_cast<size_t>(std::clamp<int32_t>(request->n(), 1, kMaxChoices));
  auto* const writer = new Writer(
      context_.max_queued_events * choices,
      [this, session, id, pass] {
        session->Cancel();
        live_calls_.Remove(id);
      },
      &MergeDeltas, &write_pacer_);
  session->Open(std::make_unique<StreamSink>(writer->handle()));
  StartGeneration(context, session, *request, record, std::move(model));
  return writer;
}

grpc::ServerUnaryReactor* InferenceService::Score(grpc::CallbackServerContext* context, const v1::ScoreRequest* request,
                                                  v1::ScoreResponse* response) {
  const auto pass = std::make_shared<GatePass>(context_.gate);
  if (!pass->inside()) return Answer(context, DrainingError());
  RequestRecord record(Method::kScore, context_.metrics->unknown());
  auto model = Identify(context, request->request_id(), request->model(), request->priority(), &record);
  const auto session = std::make_shared<ScoreSession>(context_.sessions, record, context->deadline());
  const uint64_t id = live_calls_.Add([session](const absl::Status& status) { session->Abort(status); });
  auto* const reactor =
      new SessionReactor([session] { session->Cancel(); }, [this, id, pass] { live_calls_.Remove(id); });
  session->Open([reactor, response](absl::StatusOr<v1::ScoreResponse> scores) {
    if (scores.ok()) response->Swap(&*scores);
    reactor->Finish(ToGrpcStatus(scores.status()));
  });
  CheckAndStart(session, *request, record.request_id, std::move(model), CheckScore);
  return reactor;
}

template <typename Request, typename Response>
grpc::ServerUnaryReactor* InferenceService::AnswerText(Method method, grpc::CallbackServerContext* context,
                                                       const Request* request, Response* response,
                                                       absl::StatusOr<Response> (*answer)(const Request&,
                                                                                          const ServedModel&)) {
  const auto pass = std::make_shared<GatePass>(context_.gate);
  if (!pass->inside()) return Answer(context, DrainingError());
  RequestRecord record(method, context_.metrics->unknown());
  const auto model = Identify(context, "", request->model(), 0, &record);
  if (!model.ok()) {
    record.Finish(model.status());
    return Answer(context, model.status());
  }
  // Request and response live until the reactor is finished, which is here.
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const bool accepted = context_.text_lane->Run(request->ByteSizeLong(), [=, model = *model]() mutable {
    absl::StatusOr<Response> answered = answer(*request, *model);
    if (answered.ok()) response->Swap(&*answered);
    record.Finish(answered.status());
    reactor->Finish(ToGrpcStatus(answered.status()));
  });
  if (!accepted) {
    record.Finish(TooManyLargeRequests());
    reactor->Finish(ToGrpcStatus(TooManyLargeRequests()));
  }
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return AnswerText(Method::kTokenize, context, request, response, CheckAndTokenize);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return AnswerText(Method::kDetokenize, context, request, response, CheckAndDetokenize);
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest* request,
                                                       v1::ListModelsResponse* response) {
  RequestRecord record(Method::kListModels, context_.metrics->unknown());
  absl::StatusOr<Caller> caller = context_.authenticator->Authenticate(context->client_metadata(), context->peer());
  if (!caller.ok()) {
    record.Finish(caller.status());
    return Answer(context, caller.status());
  }
  record.client = std::move(caller->client);
  const std::shared_ptr<const ClientLimits> limits = record.client == nullptr ? NoLimits() : record.client->limits();
  for (const std::shared_ptr<const ServedModel>& model : context_.catalog->Models(*limits)) {
    v1::ModelCard* const card = response->add_models();
    card->set_name(model->name);
    card->set_family(model->family);
    card->set_fingerprint(absl::BytesToHexString(model->fingerprint));
    card->set_vocab_size(model->vocab_size);
    card->set_max_tokens(model->max_tokens);
    card->set_compute(model->compute);
    card->set_weights(model->weights);
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
