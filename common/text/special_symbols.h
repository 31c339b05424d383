// Which user-defined symbols of a vocabulary are control symbols in all but name.
//
// SentencePiece's user-defined symbols are matched inside plain text. Gemma's vocabularies use them for two things:
// ordinary text (newline, tab and space runs, HTML tags such as <table> and </s>), and symbols that steer the model
// (<start_of_turn>, <unused7>, <mask>, [@BOS@], <start_of_image>, <|fim_prefix|>). Only the former may come from users.
#pragma once

#include "absl/strings/string_view.h"

namespace baton {

// True for <name> and [name], unless it is an HTML tag. Unknown names are special: a vocabulary of tomorrow must not
// let users write its control symbols.
bool IsControlLikeSymbol(absl::string_view piece);

}  // namespace baton
