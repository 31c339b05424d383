#include "tests/gateway/fake_worker.h"

#include "common/base/ids.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/text/tokenizer.h"

namespace baton {

std::string TestTokenizerBytes() {
  absl::StatusOr<std::string> bytes = ReadFile(BATON_BUNDLED_MODELS "/tiny-gemma2/tokenizer.model");
  BATON_CHECK(bytes.ok());
  return *std::move(bytes);
}

worker::v1::WorkerInfo TestWorkerInfo(worker::v1::WorkerInfo::Role role, char mark) {
  worker::v1::WorkerInfo info;
  info.set_role(role);
  info.set_boot_id(NewBootId());
  info.set_model_name("tiny");
  info.set_family("gemma2");
  info.set_fingerprint(std::string(32, mark));
  info.set_compute("bf16");
  info.set_weights("int8");
  info.set_vocab_size(Tokenizer::FromModel(TestTokenizerBytes()).value()->vocab_size());
  info.set_max_tokens(8192);
  info.set_parameters(1000);
  info.set_tokenizer_hash("the tokenizer's");
  info.mutable_generation()->set_bos_token_id(2);
  info.mutable_generation()->add_eos_token_ids(1);
  info.mutable_generation()->add_eos_token_ids(5);
  info.mutable_generation()->set_do_sample(false);
  info.mutable_state_bytes()->set_fixed(1000);
  auto* const growth = info.mutable_state_bytes()->add_growth();
  growth->set_per_token(10);
  return info;
}

grpc::ServerUnaryReactor* FakeDecode::OpenSession(grpc::CallbackServerContext* context,
                                                  const worker::v1::OpenSessionRequest* request,
                                                  worker::v1::OpenSessionResponse* response) {
  auto* const reactor = context->DefaultReactor();
  std::lock_guard<std::mutex> lock(ends_mutex_);
  const bool found = !session_key_.id().empty() && request->key().id() == session_key_.id() &&
                     request->key().identity() == session_key_.identity();
  if (found) *response = session_;
  reactor->Finish(found ? grpc::Status::OK : grpc::Status(grpc::StatusCode::NOT_FOUND, "no such session"));
  return reactor;
}

worker::v1::DecodeEvent LocalFirst(int32_t id, int32_t cached_tokens) {
  worker::v1::DecodeEvent event;
  event.mutable_first_token()->set_id(id);
  event.mutable_first_token()->set_cached_tokens(cached_tokens);
  return event;
}

worker::v1::DecodeEvent Reserve(const FakeDecode& worker, uint64_t id, int64_t bytes) {
  worker::v1::DecodeEvent event;
  event.mutable_reservation()->set_reservation_id(id);
  event.mutable_reservation()->set_generation(id + 100);
  event.mutable_reservation()->set_boot_id(worker.info().boot_id());
  event.mutable_reservation()->set_endpoint(worker.address());
  event.mutable_reservation()->set_bytes(bytes);
  return event;
}

worker::v1::PrefillEvent First(int32_t id) {
  worker::v1::PrefillEvent event;
  event.mutable_first_token()->set_id(id);
  return event;
}

worker::v1::PrefillEvent FirstAndLast(int32_t id, worker::v1::DoneReason reason) {
  worker::v1::PrefillEvent event = First(id);
  event.mutable_first_token()->set_done(reason);
  return event;
}

worker::v1::PrefillEvent PrefillDone() {
  worker::v1::PrefillEvent event;
  event.mutable_done()->set_compute_seconds(0.5);
  return event;
}

worker::v1::PrefillEvent Scores(int32_t first, const std::vector<int32_t>& ids, float logprob, bool is_greedy) {
  worker::v1::PrefillEvent event;
  event.mutable_scores()->set_first(first);
  for (int32_t id : ids) {
    event.mutable_scores()->add_ids(id);
    worker::v1::TokenLogprobs* const logprobs = event.mutable_scores()->add_logprobs();
    logprobs->set_logprob(logprob);
    logprobs->set_is_greedy(is_greedy);
  }
  return event;
}

worker::v1::DecodeEvent Tokens(int64_t position, const std::vector<int32_t>& ids, int sample) {
  worker::v1::DecodeEvent event;
  worker::v1::TokenChunk* const chunk = event.mutable_progress()->add_tokens();
  chunk->set_sample(sample);
  chunk->set_position(position);
  chunk->mutable_ids()->Add(ids.begin(), ids.end());
  return event;
}

worker::v1::DecodeEvent DecodeDone(worker::v1::DoneReason reason, int sample) {
  worker::v1::DecodeEvent event;
  worker::v1::SampleDone* const done = event.mutable_progress()->add_done();
  done->set_sample(sample);
  done->set_reason(reason);
  return event;
}

}  // namespace baton
