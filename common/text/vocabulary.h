// What tokens say: the half of a tokenizer that makes text of ids. Without the other half, which finds the ids of a
// text, it is made in a fraction of the time and memory (Gemma's 256,000 pieces: some 15 MB). Immutable; thread-safe.
//
//   BATON_ASSIGN_OR_RETURN(auto vocabulary, Vocabulary::FromModel(bytes));
//   std::string bytes = vocabulary->TokenBytes(id);
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/text/sentencepiece_model.h"

namespace baton {

class TokenText {
 public:
  virtual ~TokenText() = default;
  // The bytes of one token as they appear in text: byte pieces give their byte, control tokens nothing (or their name
  // when keep_special). Out-of-range ids give nothing.
  virtual std::string TokenBytes(int32_t id, bool keep_special = false) const = 0;
};

class Vocabulary final : public TokenText {
 public:
  // `model`: bytes of tokenizer.model. The errors of ParseSentencePieceModel.
  static absl::StatusOr<std::unique_ptr<const Vocabulary>> FromModel(absl::string_view model);
  // Of pieces that were checked.
  explicit Vocabulary(std::vector<VocabularyPiece> pieces);

  std::string TokenBytes(int32_t id, bool keep_special = false) const override;
  void AppendTokenBytes(int32_t id, bool keep_special, std::string& out) const;

  size_t size() const { return pieces_.size(); }
  bool Contains(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < pieces_.size(); }
  // The name of a piece that it contains.
  const std::string& piece(int32_t id) const { return pieces_[static_cast<size_t>(id)].piece; }
  // Control, unknown or special user-defined symbols; false for an id out of range.
  bool IsSpecial(int32_t id) const { return Contains(id) && special_[static_cast<size_t>(id)]; }
  const std::vector<bool>& special() const { return special_; }

 private:
  const std::vector<VocabularyPiece> pieces_;
  std::vector<bool> special_;
};

}  // namespace baton
