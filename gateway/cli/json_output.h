// The shape of --json: the public messages with the proto's field names, values as a script wants them. One object a
// line. Field order is fixed; invalid UTF-8 in pieces becomes U+FFFD; seeds are strings, because many JSON readers
// round 64-bit numbers.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "baton/v1/inference.pb.h"

namespace baton::cli {

using Json = nlohmann::ordered_json;

// Compact, with a newline.
std::string JsonLine(const Json& value);

// The shortest decimal that reads back as the same float.
double ShortestDouble(float value);

Json ToJson(const v1::TokenLogprob& logprob);
Json ToJson(const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& logprobs);
// "stop", "length", "cancelled", "time_limit".
std::string FinishReasonName(v1::FinishReason reason);
Json ToJson(const v1::Usage& usage);
// Everything of an answer: request_id, model, seed, text, token_ids, logprobs, prompt_logprobs, finish_reason, match,
// usage, timing; choices when the request has n.
Json ToJson(const v1::GenerateResponse& response);
Json ToJson(const v1::ChoiceFinished& finished);
// {"event":"started"|"prompt_logprobs"|"delta"|"choice_finished"|"finished", ...}. `with_choices`: the request has n.
Json ToJson(const v1::GenerateEvent& event, bool with_choices = false);
Json ToJson(const v1::ContinuationScore& score);
Json ToJson(const v1::ScoreResponse& response);
Json ToJson(const v1::ModelCard& card);
Json ToJson(const v1::ListModelsResponse& response);

}  // namespace baton::cli
