// A prompt as the commands take it: one text as a chat message or as it is, a file of messages, or token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "baton/v1/inference.pb.h"

namespace baton::cli {

// "2,3,4", "2 3 4" or a JSON array. INVALID_ARGUMENT for anything else.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const std::string& text);

// A JSON array of {"role": "user"|"model"|"assistant", "content": TEXT}. `source` names it in errors.
absl::StatusOr<v1::ChatPrompt> ParseMessages(const std::string& json, const std::string& source);

// A conversation of one message.
v1::ChatPrompt OneMessage(const std::string& text);

v1::TextPrompt PlainText(const std::string& text, bool no_bos, bool parse_special);

}  // namespace baton::cli
