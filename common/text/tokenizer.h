// SentencePiece behind a small interface. (Its header and abseil's disagree about string_view, so it is included in
// tokenizer.cc alone.) Immutable after creation; thread-safe.
//
//   BATON_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromModel(bytes));
//   std::vector<int32_t> ids = tokenizer->Encode(text, {.parse_special = false});
//
// Text from users never becomes a control token unless parse_special says so: user-defined symbols with special meaning
// (<start_of_turn>, <end_of_turn>, <unused..>, ...: pieces of the form <...> that are control or user-defined) are cut
// out of the text before SentencePiece sees it and spelled with ordinary pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace baton {

struct EncodeOptions {
  // Control symbols in the text (<bos>, <start_of_turn>, ...) become control tokens.
  bool parse_special = false;
};

class Tokenizer {
 public:
  // `model`: bytes of tokenizer.model. INVALID_ARGUMENT when SentencePiece refuses it or it has no byte fallback.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromModel(absl::string_view model);
  virtual ~Tokenizer() = default;

  // No BOS is added. Invalid UTF-8 is an INVALID_ARGUMENT naming the byte offset.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      const EncodeOptions& options = {}) const = 0;
  // The bytes of one token as they appear in text: byte pieces give their byte, control tokens nothing (or their name
  // when keep_special). Out-of-range ids give nothing.
  virtual std::string TokenBytes(int32_t id, bool keep_special = false) const = 0;
  // Concatenated TokenBytes; invalid UTF-8 sequences (from byte pieces) are replaced by U+FFFD.
  virtual std::string Decode(absl::Span<const int32_t> ids, bool keep_special = false) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;
  virtual int32_t eos_id() const = 0;
  // Id of an exact piece, or -1 (unknown pieces too).
  virtual int32_t PieceId(absl::string_view piece) const = 0;
  // Name of the piece as in the vocabulary.
  virtual std::string Piece(int32_t id) const = 0;
  // Control or special user-defined symbol.
  virtual bool IsSpecial(int32_t id) const = 0;
};

}  // namespace baton
