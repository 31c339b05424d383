#include "common/text/chat_template.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"

namespace baton {
namespace {

constexpr absl::string_view kUser = "user";
constexpr absl::string_view kModel = "model";
// Longer role names are cut in messages: they come from clients.
constexpr size_t kMaxShownRole = 32;

absl::Status CheckTurns(absl::Span<const ChatTurn> turns) {
  if (turns.empty()) return absl::InvalidArgumentError("a chat needs at least one message");
  for (size_t i = 0; i < turns.size(); ++i) {
    const std::string& role = turns[i].role;
    if (role == "system" || role == "developer") {
      return absl::InvalidArgumentError(absl::StrCat(
          "message ", i, " has role \"", role,
          "\", which Gemma's chat format does not have: put its text at the start of the first user message"));
    }
    const bool is_user = role == kUser;
    if (!is_user && role != kModel && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("message ", i, " has unknown role \"",
                                                     absl::CHexEscape(role.substr(0, kMaxShownRole)),
                                                     "\": use user, model or assistant"));
    }
    if (is_user != (i % 2 == 0)) {
      return absl::InvalidArgumentError(absl::StrCat("message ", i, " must have role ", i % 2 == 0 ? kUser : kModel,
                                                     ": roles alternate user, model, user, ... starting with user"));
    }
    if (const size_t offset = FindInvalidUtf8(turns[i].content); offset != absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("message ", i, " is not valid UTF-8 at byte ", offset));
    }
  }
  if (turns.size() % 2 == 0) return absl::InvalidArgumentError("the last message must have role user");
  return absl::OkStatus();
}

// `continues`: after an answer, whose turn is to be closed.
absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer, absl::Span<const ChatTurn> turns,
                                            bool continues) {
  const int32_t start_of_turn = tokenizer.PieceId("<start_of_turn>");
  const int32_t end_of_turn = tokenizer.PieceId("<end_of_turn>");
  if (!tokenizer.IsSpecial(start_of_turn) || !tokenizer.IsSpecial(end_of_turn) || tokenizer.bos_id() < 0) {
    return absl::FailedPreconditionError(
        "the model has no chat format: its tokenizer lacks <bos>, <start_of_turn> or <end_of_turn>");
  }
  BATON_RETURN_IF_ERROR(CheckTurns(turns));

  std::vector<int32_t> ids;
  const auto append_text = [&](absl::string_view text) -> absl::Status {
    BATON_ASSIGN_OR_RETURN(const std::vector<int32_t> encoded, tokenizer.Encode(text));
    ids.insert(ids.end(), encoded.begin(), encoded.end());
    return absl::OkStatus();
  };
  const auto end_turn = [&]() -> absl::Status {
    ids.push_back(end_of_turn);
    return append_text("\n");
  };
  if (continues) {
    BATON_RETURN_IF_ERROR(end_turn());
  } else {
    ids.push_back(tokenizer.bos_id());
  }
  for (const ChatTurn& turn : turns) {
    const absl::string_view role = turn.role == kUser ? kUser : kModel;
    ids.push_back(start_of_turn);
    BATON_RETURN_IF_ERROR(append_text(absl::StrCat(role, "\n", StripUnicodeWhitespace(turn.content))));
    BATON_RETURN_IF_ERROR(end_turn());
  }
  ids.push_back(start_of_turn);
  BATON_RETURN_IF_ERROR(append_text(absl::StrCat(kModel, "\n")));
  return ids;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer, absl::Span<const ChatTurn> turns) {
  return Encode(tokenizer, turns, /*continues=*/false);
}

absl::StatusOr<std::vector<int32_t>> EncodeNextTurns(const Tokenizer& tokenizer, absl::Span<const ChatTurn> turns) {
  return Encode(tokenizer, turns, /*continues=*/true);
}

}  // namespace baton
