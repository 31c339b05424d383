#include "common/text/vocabulary.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/special_symbols.h"

namespace baton {

absl::StatusOr<std::unique_ptr<const Vocabulary>> Vocabulary::FromModel(absl::string_view model) {
  BATON_ASSIGN_OR_RETURN(SentencePieceModel parsed, ParseSentencePieceModel(model));
  return std::make_unique<const Vocabulary>(std::move(parsed.pieces));
}

Vocabulary::Vocabulary(std::vector<VocabularyPiece> pieces) : pieces_(std::move(pieces)) {
  special_.reserve(pieces_.size());
  for (const VocabularyPiece& piece : pieces_) {
    special_.push_back(piece.type == PieceType::kControl || piece.type == PieceType::kUnknown ||
                       (piece.type == PieceType::kUserDefined && IsControlLikeSymbol(piece.piece)));
  }
}

std::string Vocabulary::TokenBytes(int32_t id, bool keep_special) const {
  std::string bytes;
  AppendTokenBytes(id, keep_special, bytes);
  return bytes;
}

void Vocabulary::AppendTokenBytes(int32_t id, bool keep_special, std::string& out) const {
  if (!Contains(id)) return;
  absl::string_view rest = piece(id);
  if (IsSpecial(id)) {
    if (keep_special) absl::StrAppend(&out, rest);
    return;
  }
  if (pieces_[static_cast<size_t>(id)].type == PieceType::kByte) {
    out += absl::HexStringToBytes(rest.substr(3, 2));  // <0xHH>
    return;
  }
  for (;;) {
    const size_t symbol = rest.find(kSpaceSymbol);
    absl::StrAppend(&out, rest.substr(0, symbol));
    if (symbol == absl::string_view::npos) return;
    out.push_back(' ');
    rest.remove_prefix(symbol + kSpaceSymbol.size());
  }
}

}  // namespace baton
