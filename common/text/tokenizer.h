// SentencePiece behind a small interface, for tokenizers of Gemma's kind. Immutable after creation; thread-safe.
//
//   BATON_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(bytes));
//   BATON_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(text, {.parse_special = false}));
//
// Text from users never becomes a special token (IsSpecial) unless parse_special says so: control symbols and
// user-defined symbols with special meaning (special_symbols.h) are spelled with ordinary pieces, as if the vocabulary
// did not have them. Newline, tab and space runs and HTML tags stay ordinary symbols.
//
// Every valid UTF-8 text without parsed specials round-trips: Decode(Encode(text)) == text. SentencePiece shows U+2581
// as a space, so that character is encoded as its three byte pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/text/vocabulary.h"

namespace baton {

struct EncodeOptions {
  // Control symbols in the text (<bos>, <start_of_turn>, ...) become control tokens.
  bool parse_special = false;
};

class Tokenizer : public TokenText {
 public:
  // `model`: bytes of tokenizer.model. INVALID_ARGUMENT, saying why, when it is corrupt or not
  // of Gemma's kind (sentencepiece_model.h).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromModel(absl::string_view model);
  // No BOS is added. Invalid UTF-8 is an INVALID_ARGUMENT naming the byte offset.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      const EncodeOptions& options = {}) const = 0;
  // Concatenated TokenBytes; invalid UTF-8 sequences (from byte pieces) are replaced by U+FFFD.
  virtual std::string Decode(absl::Span<const int32_t> ids, bool keep_special = false) const = 0;

  virtual int32_t vocab_size() const = 0;
  // -1 when the vocabulary has none.
  virtual int32_t bos_id() const = 0;
  virtual int32_t eos_id() const = 0;
  // Id of an exact piece, or -1 (unknown pieces too).
  virtual int32_t PieceId(absl::string_view piece) const = 0;
  // Name of the piece as in the vocabulary; empty for an id out of range.
  virtual std::string Piece(int32_t id) const = 0;
  // Control, unknown or special user-defined symbol. False for an id out of range.
  virtual bool IsSpecial(int32_t id) const = 0;
};

}  // namespace baton
