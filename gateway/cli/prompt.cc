#include "gateway/cli/prompt.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "gateway/cli/format.h"
#include "gateway/cli/input.h"

namespace baton::cli {

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const std::string& text) {
  absl::string_view rest = absl::StripAsciiWhitespace(text);
  if (absl::ConsumePrefix(&rest, "[") && !absl::ConsumeSuffix(&rest, "]")) {
    return absl::InvalidArgumentError("token ids: a list that starts with [ must end with ]");
  }
  std::vector<int32_t> ids;
  for (const absl::string_view word : absl::StrSplit(rest, absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ids: ", Quoted(word), " is not a number; write for example 2,651,9456"));
    }
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<v1::ChatPrompt> ParseMessages(const std::string& json, const std::string& source) {
  const nlohmann::json parsed = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat(source, R"( is not a JSON array of {"role": "user"|"model", "content": TEXT})"));
  if (!parsed.is_array()) return bad;
  v1::ChatPrompt chat;
  for (const nlohmann::json& entry : parsed) {
    if (!entry.is_object()) return bad;
    const auto role = entry.find("role");
    const auto content = entry.find("content");
    if (role == entry.end() || !role->is_string() || content == entry.end() || !content->is_string()) return bad;
    v1::ChatMessage* message = chat.add_messages();
    message->set_role(role->get<std::string>());
    message->set_content(content->get<std::string>());
  }
  return chat;
}

v1::ChatPrompt OneMessage(const std::string& text) {
  v1::ChatPrompt chat;
  v1::ChatMessage* message = chat.add_messages();
  message->set_role("user");
  message->set_content(text);
  return chat;
}

v1::TextPrompt PlainText(const std::string& text, bool no_bos, bool parse_special) {
  v1::TextPrompt prompt;
  prompt.set_text(text);
  if (no_bos) prompt.set_add_bos(false);
  if (parse_special) prompt.set_parse_special(true);
  return prompt;
}

}  // namespace baton::cli
