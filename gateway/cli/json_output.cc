#include "gateway/cli/json_output.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace baton::cli {
namespace {

Json IdList(const google::protobuf::RepeatedField<int32_t>& ids) {
  Json out = Json::array();
  for (const int32_t id : ids) out.push_back(id);
  return out;
}

// How an answer or a choice ended.
template <typename Finished>
void AddEnd(const Finished& finished, Json* out) {
  (*out)["finish_reason"] = FinishReasonName(finished.reason());
  switch (finished.match().kind_case()) {
    case v1::StopMatch::kEosTokenId:
      (*out)["match"] = {{"eos_token_id", finished.match().eos_token_id()}};
      break;
    case v1::StopMatch::kStopTokenId:
      (*out)["match"] = {{"stop_token_id", finished.match().stop_token_id()}};
      break;
    case v1::StopMatch::kStopString:
      (*out)["match"] = {{"stop_string", finished.match().stop_string()}};
      break;
    case v1::StopMatch::KIND_NOT_SET:
      break;
  }
  (*out)["usage"] = ToJson(finished.usage());
}

// The fields that Finished adds to an answer or an event.
void AddFinished(const v1::Finished& finished, Json* out) {
  AddEnd(finished, out);
  (*out)["timing"] = {{"queue_seconds", finished.timing().queue_seconds()},
                      {"time_to_first_token_seconds", finished.timing().time_to_first_token_seconds()},
                      {"total_seconds", finished.timing().total_seconds()}};
  if (finished.has_session()) {
    (*out)["session"] = {{"handle", finished.session().handle()},
                         {"expires_in_seconds", finished.session().expires_in_seconds()},
                         {"output_tokens", finished.session().output_tokens()}};
  }
}

}  // namespace

std::string JsonLine(const Json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

double ShortestDouble(float value) {
  if (!std::isfinite(value)) return value;
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits - 1, value);
  *end.ptr = '\0';
  return std::strtod(digits, nullptr);
}

Json ToJson(const v1::TokenLogprob& logprob) {
  Json out = {{"id", logprob.id()}, {"logprob", ShortestDouble(logprob.logprob())}, {"piece", logprob.piece()}};
  for (const v1::TopLogprob& top : logprob.top()) {
    out["top"].push_back({{"id", top.id()}, {"logprob", ShortestDouble(top.logprob())}, {"piece", top.piece()}});
  }
  return out;
}

Json ToJson(const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& logprobs) {
  Json out = Json::array();
  for (const v1::TokenLogprob& logprob : logprobs) out.push_back(ToJson(logprob));
  return out;
}

std::string FinishReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_TIME_LIMIT:
      return "time_limit";
    default:
      return "unspecified";
  }
}

Json ToJson(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"completion_tokens", usage.completion_tokens()},
          {"total_tokens", usage.total_tokens()},
          {"cached_prompt_tokens", usage.cached_prompt_tokens()}};
}

Json ToJson(const v1::GenerateResponse& response) {
  Json out = {{"request_id", response.request_id()},
              {"model", response.model()},
              {"seed", absl::StrCat(response.seed())},
              {"text", response.text()},
              {"token_ids", IdList(response.token_ids())}};
  if (response.logprobs_size() > 0) out["logprobs"] = ToJson(response.logprobs());
  if (response.prompt_logprobs_size() > 0) out["prompt_logprobs"] = ToJson(response.prompt_logprobs());
  AddFinished(response.finished(), &out);
  for (const v1::Choice& choice : response.choices()) {
    Json entry = ToJson(choice.finished());
    entry["text"] = choice.text();
    entry["token_ids"] = IdList(choice.token_ids());
    if (choice.logprobs_size() > 0) entry["logprobs"] = ToJson(choice.logprobs());
    out["choices"].push_back(std::move(entry));
  }
  return out;
}

Json ToJson(const v1::ChoiceFinished& finished) {
  Json out = {{"choice", finished.choice()}, {"seed", absl::StrCat(finished.seed())}};
  AddEnd(finished, &out);
  out["cumulative_logprob"] = finished.cumulative_logprob();
  return out;
}

Json ToJson(const v1::GenerateEvent& event, bool with_choices) {
  switch (event.event_case()) {
    case v1::GenerateEvent::kStarted: {
      Json out = {{"event", "started"},
                  {"request_id", event.started().request_id()},
                  {"model", event.started().model()},
                  {"seed", absl::StrCat(event.started().seed())},
                  {"prompt_tokens", event.started().prompt_tokens()}};
      for (const uint64_t seed : event.started().seeds()) out["seeds"].push_back(absl::StrCat(seed));
      return out;
    }
    case v1::GenerateEvent::kPromptLogprobs:
      return {{"event", "prompt_logprobs"}, {"tokens", ToJson(event.prompt_logprobs().tokens())}};
    case v1::GenerateEvent::kDelta: {
      Json out = {{"event", "delta"}};
      if (with_choices) out["choice"] = event.delta().choice();
      out["text"] = event.delta().text();
      out["token_ids"] = IdList(event.delta().token_ids());
      if (event.delta().logprobs_size() > 0) out["logprobs"] = ToJson(event.delta().logprobs());
      return out;
    }
    case v1::GenerateEvent::kChoiceFinished: {
      Json out = {{"event", "choice_finished"}};
      out.update(ToJson(event.choice_finished()));
      return out;
    }
    case v1::GenerateEvent::kFinished: {
      Json out = {{"event", "finished"}};
      AddFinished(event.finished(), &out);
      for (const v1::ChoiceFinished& choice : event.finished().choices()) out["choices"].push_back(ToJson(choice));
      return out;
    }
    case v1::GenerateEvent::EVENT_NOT_SET:
      break;
  }
  return {{"event", "unknown"}};
}

Json ToJson(const v1::ContinuationScore& score) {
  return {{"logprob", score.logprob()}, {"is_greedy", score.is_greedy()}, {"tokens", ToJson(score.tokens())}};
}

Json ToJson(const v1::ScoreResponse& response) {
  Json scores = Json::array();
  for (const v1::ContinuationScore& score : response.scores()) scores.push_back(ToJson(score));
  return {{"request_id", response.request_id()},
          {"model", response.model()},
          {"scores", scores},
          {"usage", ToJson(response.usage())}};
}

Json ToJson(const v1::ModelCard& card) {
  return {{"name", card.name()},
          {"family", card.family()},
          {"ready", card.ready()},
          {"parameters", card.parameters()},
          {"compute", card.compute()},
          {"weights", card.weights()},
          {"vocab_size", card.vocab_size()},
          {"max_tokens", card.max_tokens()},
          {"eos_token_ids", IdList(card.eos_token_ids())},
          {"prefill_workers", card.prefill_workers()},
          {"decode_workers", card.decode_workers()},
          {"fingerprint", card.fingerprint()},
          {"defaults",
           {{"temperature", ShortestDouble(card.defaults().temperature())},
            {"top_k", card.defaults().top_k()},
            {"top_p", ShortestDouble(card.defaults().top_p())},
            {"max_new_tokens", card.defaults().max_new_tokens()}}}};
}

Json ToJson(const v1::ListModelsResponse& response) {
  Json models = Json::array();
  for (const v1::ModelCard& card : response.models()) models.push_back(ToJson(card));
  return {{"models", models}};
}

}  // namespace baton::cli
