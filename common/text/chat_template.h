// Gemma's turn format (Gemma 1-it, 2-it, RecurrentGemma-it):
//   <bos><start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n
// built as token ids, so that the text of a message can never smuggle a control token in. Contents are trimmed of
// surrounding white space as the reference template does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/text/tokenizer.h"

namespace baton {

struct ChatTurn {
  std::string role;  // user, model, or assistant (= model)
  std::string content;
};

// Ids up to and including the opening of the model's answer.
//   INVALID_ARGUMENT     no turns, an unknown role (a system role says what to do instead), roles that do not
//                        alternate from user on, a last turn that is not the user's, or invalid UTF-8
//   FAILED_PRECONDITION  the tokenizer has no turn symbols (not a chat model)
absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer, absl::Span<const ChatTurn> turns);
// What follows an answer of the model in a conversation that goes on: the end of its turn, then `turns`, and the
// opening of the next answer. So chat(a, answer, b) = chat(a) ++ answer ++ next(b). Same errors.
absl::StatusOr<std::vector<int32_t>> EncodeNextTurns(const Tokenizer& tokenizer, absl::Span<const ChatTurn> turns);

}  // namespace baton
