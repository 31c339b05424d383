// Feeds arbitrary bytes to the gateway as the requests of any client, and to workers as those of any gateway.
//
// Input: one byte of choices, then the message in protobuf's wire format.
//   bits 0-1  GenerateRequest, ScoreRequest, TokenizeRequest, DetokenizeRequest
//   bit 2     the model has a small context
//   bit 3     the model has no tokenizer
//   bit 4     instead, a worker's DecodeRequest, or with bit 0 PrefillRequest
//
// Held: no crash; a refusal is INVALID_ARGUMENT or FAILED_PRECONDITION with a message; whatever is accepted, workers
// accept too, and is within their limits; tokenizing and detokenizing text gives the text.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "baton/v1/inference.pb.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/rpc/worker_request.h"
#include "common/text/tokenizer.h"
#include "gateway/request_check.h"
#include "gateway/worker_requests.h"

namespace baton {
namespace {

constexpr int64_t kSmallContext = 16;
constexpr int64_t kContext = 8192;

std::shared_ptr<const Tokenizer> RealTokenizer() {
  absl::StatusOr<std::string> bytes = ReadFile(BATON_BUNDLED_MODELS "/tiny-gemma2/tokenizer.model");
  BATON_CHECK(bytes.ok());
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromModel(*bytes);
  BATON_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

std::shared_ptr<const ServedModel> ModelFor(uint8_t choices) {
  static const std::shared_ptr<const Tokenizer> tokenizer = RealTokenizer();
  auto model = std::make_shared<ServedModel>();
  model->name = "fuzzed";
  model->fingerprint = std::string(32, 'f');
  model->vocab_size = tokenizer->vocab_size() + 3;
  model->max_tokens = (choices & 4) != 0 ? kSmallContext : kContext;
  model->generation.set_bos_token_id(tokenizer->bos_id());
  model->generation.add_eos_token_ids(tokenizer->eos_id());
  if ((choices & 8) == 0) model->tokenizer = tokenizer;
  return model;
}

void HoldRefusal(const absl::Status& status) {
  BATON_CHECK(absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status));
  BATON_CHECK(!status.message().empty());
}

// What an engine may rely on.
void HoldAccepted(const SequenceRequest& request, const RequestLimits& limits) {
  BATON_CHECK(!request.tokens.empty() && request.total_tokens() <= limits.max_tokens);
  BATON_CHECK(request.generated_tokens >= 0 && static_cast<size_t>(request.generated_tokens) < request.tokens.size());
  for (const int32_t id : request.tokens) BATON_CHECK(id >= 0 && id < limits.vocab_size);
  const bool kept = request.keep_id.size() == kSessionIdBytes && request.keep_identity.size() == kIdentityBytes;
  BATON_CHECK(kept ? request.samples() == 1 : request.keep_id.empty() && request.stop_strings.empty());
  BATON_CHECK(static_cast<int>(request.stop_strings.size()) <= kMaxStopStrings);
  for (const std::string& stop : request.stop_strings) {
    BATON_CHECK(!stop.empty() && stop.size() <= kMaxStopStringBytes);
  }
}

RequestLimits LimitsOf(const ServedModel& model) {
  RequestLimits limits;
  BATON_CHECK(Fingerprint::FromBytes(model.fingerprint, &limits.fingerprint));
  limits.vocab_size = model.vocab_size;
  limits.max_tokens = model.max_tokens;
  return limits;
}

void HoldGenerate(const v1::GenerateRequest& request, const std::shared_ptr<const ServedModel>& model) {
  const std::string request_id = IsRequestId(request.request_id()) ? request.request_id() : "";
  const absl::StatusOr<GenerationPlan> plan = CheckGenerate(request, request_id, model);
  if (!plan.ok()) return HoldRefusal(plan.status());
  const RequestLimits limits = LimitsOf(*model);
  for (const PromptPlace place : {PromptPlace::kPrefillWorker, PromptPlace::kDecodeWorker}) {
    Route route;
    route.prompt_place = place;
    route.standbys = {{"127.0.0.1:2", nullptr}, {"127.0.0.1:3", nullptr}};
    const absl::StatusOr<SequenceRequest> checked = CheckRequest(MakeDecodeRequest(*plan, route), limits);
    BATON_CHECK(checked.ok());
    HoldAccepted(*checked, limits);
  }
  worker::v1::Reservation reservation;
  reservation.set_endpoint("127.0.0.1:1");
  reservation.set_boot_id("boot");
  BATON_CHECK(CheckRequest(MakePrefillRequest(*plan, plan->needs_decode() ? &reservation : nullptr), limits).ok());
}

void HoldScore(const v1::ScoreRequest& request, const std::shared_ptr<const ServedModel>& model) {
  const absl::StatusOr<ScorePlan> plan = CheckScore(request, "", model);
  if (!plan.ok()) return HoldRefusal(plan.status());
  for (size_t i = 0; i < plan->continuations.size(); ++i) {
    BATON_CHECK(CheckRequest(MakeScoreRequest(*plan, i), LimitsOf(*model)).ok());
  }
}

void HoldTokenize(const v1::TokenizeRequest& request, const ServedModel& model) {
  const absl::StatusOr<v1::TokenizeResponse> response = CheckAndTokenize(request, model);
  if (!response.ok()) return HoldRefusal(response.status());
  BATON_CHECK(response->ids_size() == response->pieces_size());
  if (!request.has_text() || request.text().parse_special()) return;
  v1::DetokenizeRequest back;
  *back.mutable_ids() = response->ids();
  const absl::StatusOr<v1::DetokenizeResponse> text = CheckAndDetokenize(back, model);
  BATON_CHECK(text.ok() && text->text() == request.text().text());
}

void HoldDetokenize(const v1::DetokenizeRequest& request, const ServedModel& model) {
  const absl::StatusOr<v1::DetokenizeResponse> response = CheckAndDetokenize(request, model);
  if (!response.ok()) HoldRefusal(response.status());
}

template <typename Request>
void HoldWorkerRequest(const Request& request, const ServedModel& model) {
  const RequestLimits limits = LimitsOf(model);
  const absl::StatusOr<SequenceRequest> checked = CheckRequest(request, limits);
  if (!checked.ok()) return HoldRefusal(checked.status());
  HoldAccepted(*checked, limits);
}

template <typename Request, typename Hold>
void ParseAndHold(const uint8_t* data, size_t size, Hold hold) {
  Request request;
  if (request.ParseFromArray(data, static_cast<int>(size))) hold(request);
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  if (size == 0) return 0;
  const std::shared_ptr<const ServedModel> model = ModelFor(data[0]);
  const uint8_t* const message = data + 1;
  if ((data[0] & 16) != 0) {
    const auto hold = [&](const auto& request) { HoldWorkerRequest(request, *model); };
    if ((data[0] & 1) != 0) {
      ParseAndHold<worker::v1::PrefillRequest>(message, size - 1, hold);
    } else {
      ParseAndHold<worker::v1::DecodeRequest>(message, size - 1, hold);
    }
    return 0;
  }
  switch (data[0] & 3) {
    case 0:
      ParseAndHold<v1::GenerateRequest>(message, size - 1, [&](const auto& request) { HoldGenerate(request, model); });
      break;
    case 1:
      ParseAndHold<v1::ScoreRequest>(message, size - 1, [&](const auto& request) { HoldScore(request, model); });
      break;
    case 2:
      ParseAndHold<v1::TokenizeRequest>(message, size - 1, [&](const auto& request) { HoldTokenize(request, *model); });
      break;
    default:
      ParseAndHold<v1::DetokenizeRequest>(message, size - 1,
                                          [&](const auto& request) { HoldDetokenize(request, *model); });
      break;
  }
  return 0;
}
