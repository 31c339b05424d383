#include "decode/decode_service.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_request.h"
#include "decode/decode_call.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;

// The engine keeps at most two waiting (engine.cc); the reservation, the last tokens and the end come on top.
constexpr size_t kMaxQueuedEvents = 8;

RequestLimits MakeLimits(const Model& model, int64_t max_tokens) {
  RequestLimits limits;
  limits.fingerprint = model.fingerprint();
  limits.vocab_size = model.config().vocab_size;
  limits.max_tokens = max_tokens;
  return limits;
}

}  // namespace

DecodeService::DecodeService(Model* model, const DecodeServiceOptions& options, MemoryBudget* budget, Metrics* metrics,
                             LoadReporter* load, DrainGate* gate)
    : gate_(gate),
      limits_(MakeLimits(*model, options.max_tokens)),
      metrics_(metrics, options.model_name, budget),
      engine_(model, options.engine, &metrics_, load),
      reservations_(options.boot_id, model->MakeStateLayout(kDecodeRunTokens), budget, &metrics_, load) {
  receiver_context_.limits = limits_;
  receiver_context_.reservations = &reservations_;
  receiver_context_.engine = &engine_;
  receiver_context_.metrics = &metrics_;
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
  auto call = std::make_shared<DecodeCall>(*std::move(checked), &metrics_);
  absl::StatusOr<std::shared_ptr<Reservation>> created = reservations_.Create(call);
  if (!created.ok()) {
    gate_->Leave();
    return Refuse(*request, created.status());
  }

  const std::shared_ptr<Reservation> reservation = *std::move(created);
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
  return reactor;
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* DecodeService::Receive(
    grpc::CallbackServerContext* context) {
  return new StateReceiver(&receiver_context_);
}

grpc::ServerUnaryReactor* DecodeService::EndSamples(grpc::CallbackServerContext* context,
                                                    const worker::v1::EndSamplesRequest* request,
                                                    worker::v1::EndSamplesResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(EndSamples(*request)));
  return reactor;
}

absl::Status DecodeService::EndSamples(const worker::v1::EndSamplesRequest& request) {
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
  for (const int32_t sample : request.samples()) call->AbandonSample(sample);
  return absl::OkStatus();
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
