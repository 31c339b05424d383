#include "common/rpc/worker_request.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using Violations = std::vector<std::pair<std::string, std::string>>;

template <typename Ids>
void CheckIds(const Ids& ids, const char* field, int64_t vocab_size, Violations* violations) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    violations->emplace_back(absl::StrCat(field, "[", i, "]"),
                             absl::StrCat("token id ", ids[i], " is not in [0, ", vocab_size, ")"));
    return;  // One is enough to find the mistake.
  }
}

void CheckRequestId(const std::string& id, Violations* violations) {
  const bool printable = std::all_of(id.begin(), id.end(), [](char c) { return c >= ' ' && c < 127; });
  if (id.size() > kMaxRequestIdBytes || !printable) {
    violations->emplace_back("request_id",
                             absl::StrCat("must be printable ASCII of at most ", kMaxRequestIdBytes, " bytes"));
  }
}

template <typename Request>
void CheckSampling(const Request& request, SequenceRequest* out, int64_t vocab_size, Violations* violations) {
  if (request.sampling().logit_bias_size() > kMaxLogitBiasEntries) {
    violations->emplace_back("sampling.logit_bias", absl::StrCat("at most ", kMaxLogitBiasEntries, " entries"));
    return;
  }
  if (request.sampling().allowed_token_ids_size() > vocab_size) {
    violations->emplace_back("sampling.allowed_token_ids", "more ids than the vocabulary has");
    return;
  }
  if (request.sampling().further_seeds_size() >= static_cast<int>(kMaxSamples)) {
    violations->emplace_back("sampling.further_seeds", absl::StrCat("at most ", kMaxSamples - 1, " seeds"));
    return;
  }
  out->sampling = FromProto(request.sampling());
  out->further_seeds.assign(request.sampling().further_seeds().begin(), request.sampling().further_seeds().end());
  for (ParamViolation& violation : CheckSamplingParams(out->sampling, vocab_size)) {
    violations->emplace_back(std::move(violation.field), std::move(violation.description));
  }
}

template <typename Request>
void CheckStopping(const Request& request, SequenceRequest* out, int64_t vocab_size, Violations* violations) {
  const auto& stopping = request.stopping();
  out->max_new_tokens = stopping.max_new_tokens();
  out->min_new_tokens = stopping.min_new_tokens();
  if (out->max_new_tokens <= request.generated_tokens()) {
    violations->emplace_back("stopping.max_new_tokens",
                             absl::StrCat("is ", out->max_new_tokens, ", must be more than generated_tokens, which is ",
                                          request.generated_tokens()));
  }
  if (out->min_new_tokens < 0 || out->min_new_tokens > std::max(0, out->max_new_tokens)) {
    violations->emplace_back("stopping.min_new_tokens", "must be in [0, max_new_tokens]");
  }
  if (stopping.stop_token_ids_size() > kMaxStopTokenIds) {
    violations->emplace_back("stopping.stop_token_ids", absl::StrCat("at most ", kMaxStopTokenIds, " ids"));
    return;
  }
  CheckIds(stopping.stop_token_ids(), "stopping.stop_token_ids", vocab_size, violations);
  out->stop_token_ids.assign(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end());
  std::sort(out->stop_token_ids.begin(), out->stop_token_ids.end());
  out->stop_token_ids.erase(std::unique(out->stop_token_ids.begin(), out->stop_token_ids.end()),
                            out->stop_token_ids.end());
}

template <typename Request>
absl::StatusOr<SequenceRequest> Check(const Request& request, const RequestLimits& limits, bool generates,
                                      Violations violations) {
  Fingerprint fingerprint;
  if (!Fingerprint::FromBytes(request.fingerprint(), &fingerprint)) {
    violations.emplace_back("fingerprint", "must be 32 bytes");
  } else if (!(fingerprint == limits.fingerprint)) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "the request is for model fingerprint ", fingerprint.ToHex(), ", this worker serves ",
                          limits.fingerprint.ToHex(), ": checkpoint, compute mode and version must be equal")),
                      "FINGERPRINT_MISMATCH");
  }

  SequenceRequest out;
  CheckRequestId(request.request_id(), &violations);
  out.request_id = request.request_id();
  if (request.tokens().empty()) violations.emplace_back("tokens", "must not be empty");
  CheckIds(request.tokens(), "tokens", limits.vocab_size, &violations);
  out.generated_tokens = request.generated_tokens();
  if (out.generated_tokens < 0 || out.generated_tokens >= std::max(1, request.tokens_size())) {
    violations.emplace_back("generated_tokens", "must be in [0, number of tokens)");
  }
  if (generates) {
    CheckSampling(request, &out, limits.vocab_size, &violations);
    CheckStopping(request, &out, limits.vocab_size, &violations);
  }
  if (request.top_logprobs() < 0 || request.top_logprobs() > kMaxTopLogprobs) {
    violations.emplace_back("top_logprobs", absl::StrCat("must be in [0, ", kMaxTopLogprobs, "]"));
  }
  out.logprobs = request.logprobs();
  out.top_logprobs = request.top_logprobs();
  if (request.priority() < -kMaxPriority || request.priority() > kMaxPriority) {
    violations.emplace_back("priority", absl::StrCat("must be in [", -kMaxPriority, ", ", kMaxPriority, "]"));
  }
  out.priority = request.priority();
  if (!violations.empty()) return BadRequestError(violations);

  out.tokens.assign(request.tokens().begin(), request.tokens().end());
  const int64_t needed = generates ? out.total_tokens() : static_cast<int64_t>(out.tokens.size());
  if (needed > limits.max_tokens) {
    const int64_t prompt = static_cast<int64_t>(out.tokens.size()) - out.generated_tokens;
    return WithReason(BadRequestError({{"tokens", absl::StrCat("a prompt of ", prompt, " tokens and max_new_tokens ",
                                                               out.max_new_tokens, " exceed the ", limits.max_tokens,
                                                               " tokens that this worker allows")}}),
                      "PROMPT_TOO_LONG");
  }
  return out;
}

void CheckStopStrings(const worker::v1::DecodeRequest& request, Violations* violations) {
  if (request.stop_strings().empty()) return;
  if (!request.has_keep()) violations->emplace_back("stop_strings", "are only for a sequence that is kept");
  if (request.stop_strings_size() > kMaxStopStrings) {
    violations->emplace_back("stop_strings", absl::StrCat("at most ", kMaxStopStrings, " strings"));
  }
  for (const std::string& stop : request.stop_strings()) {
    if (!stop.empty() && stop.size() <= kMaxStopStringBytes) continue;
    violations->emplace_back("stop_strings", absl::StrCat("must have 1 to ", kMaxStopStringBytes, " bytes each"));
    return;
  }
}

}  // namespace

bool SequenceRequest::IsStop(int32_t id) const {
  return std::binary_search(stop_token_ids.begin(), stop_token_ids.end(), id);
}

absl::optional<worker::v1::DoneReason> SequenceRequest::EndAt(int32_t token, int64_t generated) const {
  if (IsStop(token)) return worker::v1::STOP_TOKEN;
  if (generated >= max_new_tokens) return worker::v1::LENGTH;
  return absl::nullopt;
}

TokenHistory SequenceRequest::MakeHistory() const {
  TokenHistory history;
  const absl::Span<const int32_t> all(tokens);
  const size_t prompt = all.size() - static_cast<size_t>(generated_tokens);
  history.AddPrompt(all.subspan(0, prompt));
  for (int32_t token : all.subspan(prompt)) history.AddOutput(token);
  return history;
}

bool IsEndpoint(absl::string_view text) {
  constexpr size_t kMaxEndpointBytes = 300;
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0 || text.size() > kMaxEndpointBytes) return false;
  int port;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 1 || port > 65535) return false;
  const absl::string_view host = text.substr(0, colon);
  for (char c : host) {
    if (c <= ' ' || c >= 127 || c == '/') return false;
  }
  return host.find(':') == absl::string_view::npos || (host.front() == '[' && host.back() == ']');
}

worker::v1::SessionKey NewSessionKey(const std::string& identity) {
  worker::v1::SessionKey key;
  key.set_id(RandomBytes(kSessionIdBytes));
  key.set_identity(identity);
  return key;
}

absl::Status CheckSessionKey(const worker::v1::SessionKey& key) {
  if (key.id().size() == kSessionIdBytes && key.identity().size() == kIdentityBytes) return absl::OkStatus();
  return BadRequestError(
      {{"key", absl::StrCat("must be an id of ", kSessionIdBytes, " and an identity of ", kIdentityBytes, " bytes")}});
}

absl::StatusOr<SequenceRequest> CheckRequest(const worker::v1::DecodeRequest& request, const RequestLimits& limits) {
  Violations violations;
  if (request.has_keep() && !CheckSessionKey(request.keep()).ok()) violations.emplace_back("keep", "is not a key");
  if (request.has_keep() && !request.sampling().further_seeds().empty()) {
    violations.emplace_back("keep", "only one sample can be kept");
  }
  if (request.has_session() && !CheckSessionKey(request.session()).ok()) {
    violations.emplace_back("session", "is not a key");
  }
  if (request.has_session() && !request.compute_prompt()) {
    violations.emplace_back("session", "is only for compute_prompt: else the prefill worker reads it");
  }
  if (request.standbys_size() > kMaxStandbys) {
    violations.emplace_back("standbys", absl::StrCat("must be at most ", kMaxStandbys));
  } else if (!std::all_of(request.standbys().begin(), request.standbys().end(), IsEndpoint)) {
    violations.emplace_back("standbys", "must be HOST:PORT of decode workers");
  }
  CheckStopStrings(request, &violations);
  absl::StatusOr<SequenceRequest> checked = Check(request, limits, /*generates=*/true, std::move(violations));
  if (!checked.ok()) return checked;
  checked->standbys.assign(request.standbys().begin(), request.standbys().end());
  checked->keep_id = request.keep().id();
  checked->keep_identity = request.keep().identity();
  checked->stop_strings.assign(request.stop_strings().begin(), request.stop_strings().end());
  checked->include_stop_tokens = request.include_stop_tokens();
  checked->compute_prompt = request.compute_prompt();
  checked->session_id = request.session().id();
  checked->session_identity = request.session().identity();
  return checked;
}

absl::StatusOr<SequenceRequest> CheckRequest(const worker::v1::PrefillRequest& request, const RequestLimits& limits) {
  Violations violations;
  if (request.has_score_from() && (request.score_from() < 1 || request.score_from() >= request.tokens_size())) {
    violations.emplace_back("score_from", "must be in [1, number of tokens)");
  }
  if (request.score_only() && request.has_handoff()) {
    violations.emplace_back("handoff", "a score_only request has no state to hand off");
  }
  if (request.has_handoff()) {
    if (request.handoff().endpoint().empty()) violations.emplace_back("handoff.endpoint", "must not be empty");
    if (request.handoff().boot_id().empty()) violations.emplace_back("handoff.boot_id", "must not be empty");
  }
  return Check(request, limits, /*generates=*/!request.score_only(), std::move(violations));
}

SamplingParams FromProto(const worker::v1::Sampling& sampling) {
  SamplingParams params;
  params.temperature = sampling.temperature();
  params.top_k = sampling.top_k();
  params.top_p = sampling.top_p();
  params.min_p = sampling.min_p();
  params.typical_p = sampling.typical_p();
  params.repetition_penalty = sampling.repetition_penalty();
  params.presence_penalty = sampling.presence_penalty();
  params.frequency_penalty = sampling.frequency_penalty();
  params.logit_bias.assign(sampling.logit_bias().begin(), sampling.logit_bias().end());
  // A protobuf map has no order of its own.
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  params.allowed_token_ids.assign(sampling.allowed_token_ids().begin(), sampling.allowed_token_ids().end());
  params.seed = sampling.seed();
  return params;
}

void ToProto(const TokenLogprob& logprob, worker::v1::TokenLogprobs* out) {
  out->set_logprob(logprob.logprob);
  out->set_is_greedy(logprob.is_greedy);
  for (const auto& [id, value] : logprob.top) {
    out->add_top_ids(id);
    out->add_top_logprobs(value);
  }
}

FirstTokenRecord MakeFirstTokenRecord(int32_t id) {
  FirstTokenRecord record;
  record.id = id;
  return record;
}

FirstTokenRecord MakeFirstTokenRecord(int32_t id, const TokenLogprob& logprob) {
  FirstTokenRecord record;
  record.id = id;
  record.has_logprobs = true;
  record.is_greedy = logprob.is_greedy;
  record.logprob = logprob.logprob;
  for (const auto& [top_id, value] : logprob.top) {
    record.top_ids.push_back(top_id);
    record.top_logprobs.push_back(value);
  }
  return record;
}

}  // namespace baton
