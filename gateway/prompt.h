// Prompts of every kind -> token ids. Used by generation, scoring and Tokenize, so that all three agree.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "baton/v1/inference.pb.h"
#include "gateway/model_catalog.h"
#include "gateway/violations.h"

namespace baton {

// Mistakes go to `violations`, with field paths below `field`; what is returned then has no meaning.
std::vector<int32_t> EncodeTextPrompt(const v1::TextPrompt& prompt, const ServedModel& model, Violations* violations);
std::vector<int32_t> EncodeTokenPrompt(const v1::TokenPrompt& prompt, const std::string& field,
                                       const ServedModel& model, Violations* violations);
std::vector<int32_t> EncodeChatPrompt(const v1::ChatPrompt& prompt, const ServedModel& model, Violations* violations);
// Text that goes on after something else: no BOS, control symbols are plain text unless asked for.
std::vector<int32_t> EncodeContinuation(const std::string& text, const std::string& field, const ServedModel& model,
                                        Violations* violations, bool parse_special = false);
// The next turns of a conversation whose last token belongs to the model's answer.
std::vector<int32_t> EncodeNextTurns(const v1::ChatPrompt& prompt, const ServedModel& model, Violations* violations);

// The first id outside the vocabulary is a violation "field[i]".
void CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, const std::string& field, int64_t vocab_size,
                   Violations* violations);

}  // namespace baton
