#include "decode/decode_service.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/trace_metadata.h"
#include "common/rpc/worker_request.h"
#include "decode/decode_call.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;

// The engine keeps at most two waiting (engine.cc); the reservation, the last tokens and the end come on top.
constexpr size_t kMaxQueuedEvents = 8;

constexpr char kLocalPrefillRefused[] = "LOCAL_PREFILL_REFUSED";

// Sends a kept state, a message at a time. Deletes itself.
class SessionSender final : public grpc::ServerWriteReactor<worker::v1::StateChunk> {
 public:
  explicit SessionSender(absl::StatusOr<std::unique_ptr<SessionFrames>> frames) {
    if (!frames.ok()) {
      Finish(ToGrpcStatus(frames.status()));
      return;
    }
    frames_ = *std::move(frames);
    Next();
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      Next();
    } else {
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the reader went away"));
    }
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    chunk_.Clear();
    const absl::Status status = frames_->Next(chunk_.mutable_data());
    if (!status.ok() || chunk_.data().empty()) {
      Finish(ToGrpcStatus(status));
    } else {
      StartWrite(&chunk_);
    }
  }

  std::unique_ptr<SessionFrames> frames_;
  worker::v1::StateChunk chunk_;
};

CheckpointOptions WithMaxTokens(const DecodeServiceOptions& options) {
  CheckpointOptions checkpoints = options.checkpoints;
  checkpoints.max_tokens = options.max_tokens;
  return checkpoints;
}

RequestLimits MakeLimits(const Model& model, int64_t max_tokens) {
  RequestLimits limits;
  limits.fingerprint = model.fingerprint();
  limits.vocab_size = model.config().vocab_size;
  limits.max_tokens = max_tokens;
  return limits;
}

std::unique_ptr<CheckpointSender> MakeCheckpointSender(const Model& model, const DecodeServiceOptions& options,
                                                       CheckpointMetrics* checkpoint_metrics,
                                                       DecodeMetrics* decode_metrics) {
  if (options.checkpoints.tokens == 0) return nullptr;
  CheckpointSenderOptions sender;
  sender.tokens = options.checkpoints.tokens;
  sender.credit_bytes = kCheckpointCreditBytes;
  sender.channel = options.channel;
  sender.on_freed = [decode_metrics] { decode_metrics->UpdateStateBytes(); };
  return std::make_unique<CheckpointSender>(sender, model.fingerprint(), checkpoint_metrics);
}

}  // namespace

DecodeService::DecodeService(Model* model, const DecodeServiceOptions& options, MemoryBudget* budget, Metrics* metrics,
                             LoadReporter* load, DrainGate* gate)
    : gate_(gate),
      tracing_(options.tracing),
      limits_(MakeLimits(*model, options.max_tokens)),
      model_(model),
      computes_prompts_(options.engine.local_prefill_chunk > 0),
      metrics_(metrics, options.model_name, budget),
      session_metrics_(metrics, options.model_name),
      checkpoint_metrics_(metrics, options.model_name),
      sessions_(options.sessions, model->fingerprint(), budget, &session_metrics_,
                [this, load](int64_t count, int64_t bytes) {
                  load->SetKeptSessions(count, bytes);
                  metrics_.UpdateStateBytes();
                }),
      checkpoints_(WithMaxTokens(options), model->MakeStateLayout(DecodeRunTokens(options.engine)),
                   model->fingerprint(), budget, &checkpoint_metrics_,
                   [this, load](int64_t count, int64_t bytes) {
                     load->SetCheckpoints(count, bytes);
                     metrics_.UpdateStateBytes();
                   }),
      left_states_(model->fingerprint(), [this] { metrics_.UpdateStateBytes(); }),
      checkpoint_sender_(MakeCheckpointSender(*model, options, &checkpoint_metrics_, &metrics_)),
      engine_(model, options.engine, budget, &metrics_, load,
              {&sessions_, [this](int64_t bytes) { return MakeRoom(bytes); }, checkpoint_sender_.get()}),
      reservations_(options.boot_id, model->MakeStateLayout(DecodeRunTokens(options.engine)),
                    options.engine.reserve_output, budget, &metrics_, load,
                    [this](int64_t bytes) { return MakeRoom(bytes); }) {
  receiver_context_.limits = limits_;
  receiver_context_.reservations = &reservations_;
  receiver_context_.engine = &engine_;
  receiver_context_.sessions = &sessions_;
  receiver_context_.budget = budget;
  receiver_context_.metrics = &metrics_;
  receiver_context_.checkpoints = &checkpoints_;
  receiver_context_.checkpoint_metrics = &checkpoint_metrics_;
  receiver_context_.tracing = tracing_.get();
  engine_.Start();
}

DecodeService::~DecodeService() { Stop(); }

void DecodeService::SetEndpoint(const std::string& endpoint) {
  absl::MutexLock lock(&mutex_);
  endpoint_ = endpoint;
}

void DecodeService::Stop() { engine_.Stop(); }

grpc::ServerWriteReactor<DecodeEvent>* DecodeService::Run(grpc::CallbackServerContext* context,
                                                          const DecodeRequest* request) {
  if (!gate_->Enter()) {
    return Refuse(*request, WithReason(absl::UnavailableError("the decode worker is draining"), "DRAINING"));
  }
  absl::StatusOr<SequenceRequest> checked = CheckRequest(*request, limits_);
  if (!checked.ok()) {
    gate_->Leave();
    return Refuse(*request, checked.status());
  }
  if (engine_.short_of_memory()) {
    gate_->Leave();
    return Refuse(*request, WithRetryAfter(absl::ResourceExhaustedError("running sequences wait for memory"),
                                           kMemoryRetryDelay, "DECODE_MEMORY_FULL"));
  }
  absl::StatusOr<StateSnapshot> beginning = BeginningOf(*checked);
  if (!beginning.ok()) {
    gate_->Leave();
    return Refuse(*request, beginning.status());
  }
  Span span = BeginTrace(*context, *checked);
  const Vocabulary* const vocabulary = VocabularyFor(*checked);
  auto call = std::make_shared<DecodeCall>(*std::move(checked), &metrics_, span, vocabulary);
  absl::StatusOr<std::shared_ptr<Reservation>> created =
      reservations_.Create(call, beginning->layout != nullptr ? &*beginning : nullptr);
  if (beginning->layout != nullptr) {
    // The state has what it needs of it.
    *beginning = StateSnapshot();
    metrics_.UpdateStateBytes();
  }
  if (!created.ok()) {
    span.Fail(created.status().message());
    span.End();
    gate_->Leave();
    return Refuse(*request, created.status());
  }

  const std::shared_ptr<Reservation> reservation = *std::move(created);
  span.Set("baton.reserved_bytes", reservation->bytes());
  const CallKey key(reservation->id(), reservation->generation());
  {
    absl::MutexLock lock(&mutex_);
    calls_[key] = call;
  }
  auto* reactor = new EventWriter<DecodeEvent>(kMaxQueuedEvents, [this, reservation, key] {
    {
      absl::MutexLock lock(&mutex_);
      calls_.erase(key);
    }
    reservation->call().Finish(DecodeOutcome::kCancelled, absl::CancelledError("the caller went away"));
    reservations_.End(*reservation);
    gate_->Leave();
  });
  call->AttachEvents(reactor->handle());
  call->events().Push(ReservationEvent(*reservation));
  if (call->request().compute_prompt) {
    absl::StatusOr<Room> room = reservations_.TakeUnfilled(*reservation);
    if (room.ok()) {
      engine_.AddPrompt(call, *std::move(room));
    } else {
      // The caller has gone, or somebody sends a state that nobody asked for.
      call->Finish(DecodeOutcome::kFailed, room.status());
    }
  }
  return reactor;
}

const Vocabulary* DecodeService::VocabularyFor(const SequenceRequest& request) {
  if (request.stop_strings.empty()) return nullptr;
  absl::call_once(vocabulary_read_, [this] {
    absl::StatusOr<std::unique_ptr<const Vocabulary>> vocabulary = Vocabulary::FromModel(model_->tokenizer());
    if (vocabulary.ok()) {
      vocabulary_ = *std::move(vocabulary);
    } else {
      Log(Severity::kWarning, "no_vocabulary")
          .With("error", vocabulary.status())
          .With("effect", "turns that end with a stop string are not kept");
    }
  });
  return vocabulary_.get();
}

Span DecodeService::BeginTrace(const grpc::CallbackServerContext& context, const SequenceRequest& request) const {
  if (tracing_ == nullptr) return Span();
  Span span = tracing_->tracer().Begin("baton.worker.v1.Decode/Run", TraceParent(context.client_metadata()),
                                       request.request_id);
  span.Set("rpc.system", "grpc");
  span.Set("gen_ai.usage.input_tokens", static_cast<int64_t>(request.tokens.size()) - request.generated_tokens);
  if (request.generated_tokens > 0) span.Set("baton.continued_tokens", int64_t{request.generated_tokens});
  return span;
}

absl::StatusOr<StateSnapshot> DecodeService::BeginningOf(const SequenceRequest& request) {
  if (!request.compute_prompt) return StateSnapshot();
  if (!computes_prompts_) {
    return WithReason(absl::UnavailableError("this decode worker computes no prompts (--local-prefill-chunk 0)"),
                      kLocalPrefillRefused);
  }
  if (request.session_id.empty()) return StateSnapshot();
  const SessionKey key{request.session_id, request.session_identity};
  absl::StatusOr<SequenceState> copy = checkpoints_.Take(key);
  if (copy.ok()) {
    if (copy->position() < static_cast<int64_t>(request.tokens.size())) return copy->Snapshot();
    copy = absl::NotFoundError("");
    metrics_.UpdateStateBytes();
    return WithReason(absl::UnavailableError("the copy of the state here is of more tokens than the request has"),
                      kLocalPrefillRefused);
  }
  absl::StatusOr<KeptSession> kept = sessions_.Resume(key);
  if (!kept.ok()) {
    return WithReason(absl::UnavailableError("the session's state is not in this worker's memory any more"),
                      kLocalPrefillRefused);
  }
  const int64_t position = kept->snapshot.position;
  const bool begins_with_it = position < static_cast<int64_t>(request.tokens.size()) &&
                              std::equal(kept->tokens.begin(), kept->tokens.begin() + position, request.tokens.begin());
  if (!begins_with_it) {
    return BadRequestError({{"session", "the prompt does not begin with the session's tokens"}});
  }
  return std::move(kept->snapshot);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* DecodeService::Receive(
    grpc::CallbackServerContext* context) {
  return new StateReceiver(&receiver_context_, TraceParent(context->client_metadata()));
}

grpc::ServerUnaryReactor* DecodeService::EndSamples(grpc::CallbackServerContext* context,
                                                    const worker::v1::EndSamplesRequest* request,
                                                    worker::v1::EndSamplesResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(AskOfSamples(*request)));
  return reactor;
}

absl::Status DecodeService::AskOfSamples(const worker::v1::EndSamplesRequest& request) {
  std::shared_ptr<DecodeCall> call;
  if (request.boot_id() == reservations_.boot_id()) {
    absl::MutexLock lock(&mutex_);
    const auto found = calls_.find(CallKey(request.reservation_id(), request.generation()));
    if (found != calls_.end()) call = found->second;
  }
  if (call == nullptr) return absl::NotFoundError("the request has ended, or never was one of this worker's");
  const int samples = call->request().samples();
  for (const int32_t sample : request.samples()) {
    if (sample >= 0 && sample < samples) continue;
    return BadRequestError({{"samples", absl::StrCat("sample ", sample, " is not in [0, ", samples, ")")}});
  }
  const auto wish = request.as_complete() ? DecodeCall::Wish::kComplete : DecodeCall::Wish::kAbandon;
  for (const int32_t sample : request.samples()) call->AskOfSample(sample, wish);
  return absl::OkStatus();
}

absl::Status DecodeService::CheckSessionRequest(const std::string& fingerprint,
                                                const worker::v1::SessionKey& key) const {
  if (fingerprint != limits_.fingerprint.ToBytes()) {
    return absl::NotFoundError("this worker serves another model, and keeps none of its sessions");
  }
  return CheckSessionKey(key);
}

grpc::ServerUnaryReactor* DecodeService::OpenSession(grpc::CallbackServerContext* context,
                                                     const worker::v1::OpenSessionRequest* request,
                                                     worker::v1::OpenSessionResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(DescribeSession(*request, response)));
  return reactor;
}

absl::Status DecodeService::DescribeSession(const worker::v1::OpenSessionRequest& request,
                                            worker::v1::OpenSessionResponse* response) {
  BATON_RETURN_IF_ERROR(CheckSessionRequest(request.fingerprint(), request.key()));
  BATON_ASSIGN_OR_RETURN(const SessionInfo info, sessions_.Open({request.key().id(), request.key().identity()}));
  response->mutable_tokens()->Add(info.tokens.begin(), info.tokens.end());
  response->set_position(info.position);
  response->set_in_memory(info.in_memory);
  absl::MutexLock lock(&mutex_);
  response->set_endpoint(endpoint_);
  return absl::OkStatus();
}

grpc::ServerWriteReactor<worker::v1::StateChunk>* DecodeService::ReadSession(
    grpc::CallbackServerContext* context, const worker::v1::ReadSessionRequest* request) {
  return new SessionSender(SessionState(*request));
}

absl::StatusOr<std::unique_ptr<SessionFrames>> DecodeService::SessionState(
    const worker::v1::ReadSessionRequest& request) {
  BATON_RETURN_IF_ERROR(CheckSessionRequest(request.fingerprint(), request.key()));
  const SessionKey key{request.key().id(), request.key().identity()};
  if (std::unique_ptr<SessionFrames> left = left_states_.Take(key)) return left;
  absl::StatusOr<SequenceState> copy = checkpoints_.Take(key);
  if (copy.ok()) return FramesOf(*std::move(copy), limits_.fingerprint, [this] { metrics_.UpdateStateBytes(); });
  return sessions_.Read(key);
}

grpc::ServerUnaryReactor* DecodeService::DropCheckpoint(grpc::CallbackServerContext* context,
                                                        const worker::v1::DropCheckpointRequest* request,
                                                        worker::v1::DropCheckpointResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::Status checked = CheckSessionKey(request->key());
  if (checked.ok()) checkpoints_.Drop({request->key().id(), request->key().identity()});
  reactor->Finish(ToGrpcStatus(checked));
  return reactor;
}

grpc::ServerWriteReactor<DecodeEvent>* DecodeService::Refuse(const DecodeRequest& request, const absl::Status& status) {
  SequenceRequest refused;
  refused.request_id = request.request_id().substr(0, kMaxRequestIdBytes);
  refused.tokens.assign(request.tokens().begin(), request.tokens().end());
  auto* reactor = new EventWriter<DecodeEvent>(kMaxQueuedEvents, nullptr);
  DecodeCall call(std::move(refused), &metrics_);
  call.AttachEvents(reactor->handle());
  call.Finish(DecodeOutcome::kRefused, status);
  return reactor;
}

DecodeEvent DecodeService::ReservationEvent(const Reservation& reservation) const {
  DecodeEvent event;
  worker::v1::Reservation* out = event.mutable_reservation();
  out->set_reservation_id(reservation.id());
  out->set_generation(reservation.generation());
  out->set_boot_id(reservations_.boot_id());
  out->set_bytes(reservation.bytes());
  absl::MutexLock lock(&mutex_);
  out->set_endpoint(endpoint_);
  return event;
}

}  // namespace baton
