#include "gateway/request_check.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/rpc/worker_request.h"
#include "common/sampling/sample_seed.h"
#include "gateway/prompt.h"
#include "gateway/violations.h"

namespace baton {
namespace {

template <typename Value>
void CheckRange(Value value, Value low, Value high, const char* field, Violations* violations) {
  if (value >= low && value <= high) return;
  violations->Add(field, absl::StrCat("is ", value, ", must be in [", low, ", ", high, "]"));
}

// The functions below serve GenerateRequest and ScoreRequest, whose prompts and contexts are alike.

// Bytes of text to tokenize.
template <typename Request>
int64_t TextBytes(const Request& request) {
  size_t bytes = request.text().text().size();
  for (const v1::ChatMessage& message : request.chat().messages()) bytes += message.content().size();
  return static_cast<int64_t>(bytes);
}

std::vector<int32_t> EncodeNext(const v1::GenerateRequest& request, const ServedModel& model, Violations* violations);
// Nothing follows a scored context but its continuations.
std::vector<int32_t> EncodeNext(const v1::ScoreRequest&, const ServedModel&, Violations*) { return {}; }

template <typename Request>
std::vector<int32_t> EncodePrompt(const Request& request, const char* what, const ServedModel& model,
                                  Violations* violations, const absl::optional<SessionPrefix>& prefix = absl::nullopt) {
  const char* const field = request.has_text() ? "text" : request.has_tokens() ? "tokens.ids" : "chat";
  // So much text cannot fit, however it is tokenized; finding out how many tokens it has would take long.
  if (model.longest_piece_bytes > 0 && TextBytes(request) / model.longest_piece_bytes >= model.max_tokens) {
    violations->AddWithReason(field,
                              absl::StrCat("has ", TextBytes(request), " bytes of text, more than the ",
                                           model.max_tokens, " tokens of model ", model.name, " can hold"),
                              "PROMPT_TOO_LONG");
    return {};
  }
  const size_t before = violations->count();
  std::vector<int32_t> ids;
  if (prefix.has_value() && (request.has_text() || request.has_tokens() || request.has_chat())) {
    ids = EncodeNext(request, model, violations);
  } else if (request.has_text()) {
    ids = EncodeTextPrompt(request.text(), model, violations);
  } else if (request.has_tokens()) {
    ids = EncodeTokenPrompt(request.tokens(), field, model, violations);
  } else if (request.has_chat()) {
    ids = EncodeChatPrompt(request.chat(), model, violations);
  } else {
    violations->Add(what, "is missing: set text, tokens or chat");
  }
  if (violations->count() > before) return ids;
  if (ids.empty()) violations->Add(field, "has no tokens");
  if (prefix.has_value()) ids.insert(ids.begin(), prefix->tokens.begin(), prefix->tokens.end());
  // One token of output, or of a continuation, has to fit behind it.
  const int64_t tokens = static_cast<int64_t>(ids.size());
  if (tokens >= model.max_tokens) {
    violations->AddWithReason(field,
                              absl::StrCat(prefix.has_value() ? "with the conversation has " : "has ", tokens,
                                           " tokens; model ", model.name, " takes at most ", model.max_tokens - 1),
                              "PROMPT_TOO_LONG");
  }
  return ids;
}

void ResolveSampling(const v1::SamplingParams& asked, const ServedModel& model, worker::v1::Sampling* out,
                     Violations* violations) {
  const v1::GenerationDefaults defaults = DefaultsOf(model.generation);
  const float repetition_default =
      model.generation.has_repetition_penalty() ? model.generation.repetition_penalty() : 1.0f;
  out->set_temperature(asked.has_temperature() ? asked.temperature() : defaults.temperature());
  out->set_top_k(asked.has_top_k() ? asked.top_k() : defaults.top_k());
  out->set_top_p(asked.has_top_p() ? asked.top_p() : defaults.top_p());
  out->set_min_p(asked.min_p());
  out->set_typical_p(asked.has_typical_p() ? asked.typical_p() : 1.0f);
  out->set_repetition_penalty(asked.has_repetition_penalty() ? asked.repetition_penalty() : repetition_default);
  out->set_presence_penalty(asked.presence_penalty());
  out->set_frequency_penalty(asked.frequency_penalty());
  *out->mutable_logit_bias() = asked.logit_bias();
  out->set_seed(asked.has_seed() ? asked.seed() : RandomUint64());
  if (asked.allowed_token_ids_size() > model.vocab_size) {
    violations->Add("sampling.allowed_token_ids", absl::StrCat("has ", asked.allowed_token_ids_size(),
                                                               " ids, the vocabulary only ", model.vocab_size));
  } else {
    *out->mutable_allowed_token_ids() = asked.allowed_token_ids();
  }
  for (ParamViolation& violation : CheckSamplingParams(FromProto(*out), model.vocab_size)) {
    violations->Add(std::move(violation.field), std::move(violation.description));
  }
}

void CheckStopStrings(const v1::StoppingParams& asked, const ServedModel& model, Violations* violations) {
  if (asked.stop_size() > kMaxStopStrings) {
    violations->Add("stopping.stop",
                    absl::StrCat("has ", asked.stop_size(), " strings, at most ", kMaxStopStrings, " are allowed"));
    return;
  }
  for (int i = 0; i < asked.stop_size(); ++i) {
    const size_t size = asked.stop(i).size();
    if (size >= 1 && size <= kMaxStopStringBytes) continue;
    violations->Add(absl::StrCat("stopping.stop[", i, "]"),
                    absl::StrCat("has ", size, " bytes, must have 1 to ", kMaxStopStringBytes));
  }
  if (asked.stop_size() > 0 && model.tokenizer == nullptr) {
    violations->Add("stopping.stop", absl::StrCat("model ", model.name, " has no tokenizer: use stop_token_ids"));
  }
}

// `room`: tokens of output the model's context leaves; not positive when the prompt is a violation itself.
void ResolveStopping(const v1::StoppingParams& asked, int64_t room, const ServedModel& model, GenerationPlan* plan,
                     Violations* violations) {
  const int32_t max_new =
      asked.has_max_new_tokens() ? asked.max_new_tokens() : DefaultsOf(model.generation).max_new_tokens();
  if (max_new < 1) violations->Add("stopping.max_new_tokens", absl::StrCat("is ", max_new, ", must be at least 1"));
  const int32_t min_new = asked.min_new_tokens();
  if (min_new < 0 || min_new > std::max(max_new, 0)) {
    violations->Add("stopping.min_new_tokens",
                    absl::StrCat("is ", min_new, ", must be in [0, ", max_new, "] (max_new_tokens)"));
  }
  const int32_t cut = static_cast<int32_t>(std::min<int64_t>(max_new, std::max<int64_t>(room, 1)));
  plan->stopping.set_max_new_tokens(cut);
  plan->stopping.set_min_new_tokens(std::min(min_new, cut));

  CheckStopStrings(asked, model, violations);
  plan->stop_strings.assign(asked.stop().begin(), asked.stop().end());
  plan->include_stop_in_output = asked.include_stop_in_output();

  const int eos_ids = model.generation.eos_token_ids_size();
  if (asked.stop_token_ids_size() > kMaxStopTokenIds - eos_ids) {
    violations->Add("stopping.stop_token_ids", absl::StrCat("has ", asked.stop_token_ids_size(), " ids, at most ",
                                                            kMaxStopTokenIds - eos_ids, " are allowed"));
  } else {
    CheckTokenIds(asked.stop_token_ids(), "stopping.stop_token_ids", model.vocab_size, violations);
    if (!asked.ignore_eos()) *plan->stopping.mutable_stop_token_ids() = model.generation.eos_token_ids();
    plan->stopping.mutable_stop_token_ids()->MergeFrom(asked.stop_token_ids());
  }
  if (asked.has_time_limit_seconds()) {
    const float seconds = asked.time_limit_seconds();
    if (!std::isfinite(seconds) || seconds <= 0) {
      violations->Add("stopping.time_limit_seconds", "must be a finite positive number of seconds");
    } else {
      plan->time_limit_seconds = seconds;
    }
  }
}

const std::string& CheckCacheSalt(const std::string& salt, Violations* violations) {
  if (salt.size() > kMaxCacheSaltBytes) {
    violations->Add("cache_salt", absl::StrCat("has ", salt.size(), " bytes; at most ", kMaxCacheSaltBytes));
  }
  return salt;
}

void ResolveOutput(const v1::OutputParams& asked, GenerationPlan* plan, Violations* violations) {
  CheckRange<int32_t>(asked.top_logprobs(), 0, kMaxTopLogprobs, "output.top_logprobs", violations);
  if (asked.top_logprobs() > 0 && asked.has_logprobs() && !asked.logprobs() && !asked.prompt_logprobs()) {
    violations->Add("output.top_logprobs", "needs output.logprobs or output.prompt_logprobs");
  }
  plan->top_logprobs = asked.top_logprobs();
  plan->prompt_logprobs = asked.prompt_logprobs();
  // Asking for alternatives is asking for log probabilities.
  plan->logprobs = asked.has_logprobs() ? asked.logprobs() : asked.top_logprobs() > 0;
  plan->token_ids = !asked.has_token_ids() || asked.token_ids();
}

void ResolveChoices(const v1::GenerateRequest& asked, GenerationPlan* plan, Violations* violations) {
  const int32_t n = asked.has_n() ? asked.n() : 1;
  if (n < 1 || n > kMaxChoices) {
    violations->Add("n", absl::StrCat("is ", n, ", must be in [1, ", kMaxChoices, "]"));
    return;
  }
  const int32_t stop_after = asked.has_stop_after() ? asked.stop_after() : n;
  if (stop_after < 1 || stop_after > n) {
    violations->Add("stop_after", absl::StrCat("is ", stop_after, ", must be in [1, ", n, "] (n)"));
  }
  plan->wants_choices = asked.has_n();
  plan->stop_after = stop_after;
  for (int i = 1; i < n; ++i) plan->sampling.add_further_seeds(SampleSeed(plan->sampling.seed(), i));
  if (asked.keep_state() && n > 1) violations->Add("keep_state", "needs n = 1: one conversation is kept");
}

// What a request adds to a conversation.
std::vector<int32_t> EncodeNext(const v1::GenerateRequest& request, const ServedModel& model, Violations* violations) {
  if (request.has_text())
    return EncodeContinuation(request.text().text(), "text.text", model, violations, request.text().parse_special());
  if (request.has_chat()) return EncodeNextTurns(request.chat(), model, violations);
  return EncodeTokenPrompt(request.tokens(), "tokens.ids", model, violations);
}

}  // namespace

bool GenerationPlan::IsStopToken(int32_t id) const {
  return std::find(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end(), id) !=
         stopping.stop_token_ids().end();
}

bool GenerationPlan::IsEos(int32_t id) const {
  const auto& eos = model->generation.eos_token_ids();
  return std::find(eos.begin(), eos.end(), id) != eos.end();
}

bool IsRequestId(absl::string_view text) {
  return text.size() <= kMaxRequestIdBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c < 127; });
}

absl::StatusOr<GenerationPlan> CheckGenerate(const v1::GenerateRequest& request, const std::string& request_id,
                                             std::shared_ptr<const ServedModel> model, const std::string& identity,
                                             const absl::optional<SessionPrefix>& prefix) {
  GenerationPlan plan;
  Violations violations;
  plan.request_id = request_id;
  CheckRange<int32_t>(request.priority(), -kMaxPriority, kMaxPriority, "priority", &violations);
  plan.priority = request.priority();
  plan.cache_salt = CheckCacheSalt(request.cache_salt(), &violations);
  ResolveSampling(request.sampling(), *model, &plan.sampling, &violations);
  ResolveChoices(request, &plan, &violations);
  ResolveOutput(request.output(), &plan, &violations);
  if (request.keep_state()) plan.keep = NewSessionKey(identity);
  if (prefix.has_value()) {
    plan.session = prefix->source;
    plan.session_worker = prefix->worker;
    plan.session_tokens = prefix->position;
  }
  plan.prompt = EncodePrompt(request, "prompt", *model, &violations, prefix);
  const int64_t room = model->max_tokens - static_cast<int64_t>(plan.prompt.size());
  ResolveStopping(request.stopping(), room, *model, &plan, &violations);
  if (!violations.empty()) return violations.ToStatus();
  plan.model = std::move(model);
  return plan;
}

absl::StatusOr<ScorePlan> CheckScore(const v1::ScoreRequest& request, const std::string& request_id,
                                     std::shared_ptr<const ServedModel> model) {
  ScorePlan plan;
  Violations violations;
  plan.request_id = request_id;
  CheckRange<int32_t>(request.priority(), -kMaxPriority, kMaxPriority, "priority", &violations);
  plan.priority = request.priority();
  plan.cache_salt = CheckCacheSalt(request.cache_salt(), &violations);
  CheckRange<int32_t>(request.top_logprobs(), 0, kMaxTopLogprobs, "top_logprobs", &violations);
  plan.top_logprobs = request.top_logprobs();
  CheckRange<int32_t>(request.continuations_size(), 1, kMaxContinuations, "continuations", &violations);
  if (!violations.empty()) return violations.ToStatus();

  plan.context = EncodePrompt(request, "context", *model, &violations);
  for (int i = 0; i < request.continuations_size(); ++i) {
    const v1::Continuation& continuation = request.continuations(i);
    const std::string field = absl::StrCat("continuations[", i, "]");
    const size_t before = violations.count();
    std::vector<int32_t> ids;
    if (continuation.has_tokens()) {
      ids = EncodeTokenPrompt(continuation.tokens(), field + ".tokens.ids", *model, &violations);
    } else if (continuation.kind_case() == v1::Continuation::kText) {
      ids = EncodeContinuation(continuation.text(), field + ".text", *model, &violations);
    } else {
      violations.Add(field, "is empty: set text or tokens");
      continue;
    }
    const int64_t tokens = static_cast<int64_t>(plan.context.size() + ids.size());
    if (ids.empty() && violations.count() == before) violations.Add(field, "has no tokens");
    if (tokens > model->max_tokens) {
      violations.AddWithReason(field,
                               absl::StrCat("with the context has ", tokens, " tokens; model ", model->name,
                                            " takes at most ", model->max_tokens),
                               "PROMPT_TOO_LONG");
    }
    plan.continuations.push_back(std::move(ids));
  }
  if (!violations.empty()) return violations.ToStatus();
  plan.model = std::move(model);
  return plan;
}

absl::StatusOr<v1::TokenizeResponse> CheckAndTokenize(const v1::TokenizeRequest& request, const ServedModel& model) {
  Violations violations;
  std::vector<int32_t> ids;
  if (request.has_text()) {
    ids = EncodeTextPrompt(request.text(), model, &violations);
  } else if (request.has_chat()) {
    ids = EncodeChatPrompt(request.chat(), model, &violations);
  } else {
    violations.Add("input", "is missing: set text or chat");
  }
  if (!violations.empty()) return violations.ToStatus();
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  for (int32_t id : ids) response.add_pieces(model.tokenizer->TokenBytes(id, /*keep_special=*/true));
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> CheckAndDetokenize(const v1::DetokenizeRequest& request,
                                                          const ServedModel& model) {
  Violations violations;
  if (model.tokenizer == nullptr) {
    violations.Refuse(absl::FailedPreconditionError(absl::StrCat("model ", model.name, " has no tokenizer")));
  }
  CheckTokenIds(request.ids(), "ids", model.vocab_size, &violations);
  if (!violations.empty()) return violations.ToStatus();
  v1::DetokenizeResponse response;
  const absl::Span<const int32_t> ids(request.ids().data(), static_cast<size_t>(request.ids_size()));
  response.set_text(model.tokenizer->Decode(ids, request.keep_special()));
  return response;
}

}  // namespace baton
