// Reads and writes the part of tokenizer.model (a serialized sentencepiece.ModelProto) that Baton needs, without the
// protobuf library.
//
// The bytes may come from anywhere: everything SentencePiece would trust is checked here, and SentencePiece itself is
// only given what SerializeForEncoding wrote.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

// U+2581, which SentencePiece writes for a space.
inline constexpr absl::string_view kSpaceSymbol = "\xE2\x96\x81";

// Values as in sentencepiece_model.proto.
enum class PieceType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct VocabularyPiece {
  std::string piece;
  float score = 0;
  PieceType type = PieceType::kNormal;
};

struct SentencePieceModel {
  enum Algorithm : int32_t { kUnigram = 1, kBpe = 2 };

  std::vector<VocabularyPiece> pieces;
  Algorithm algorithm = kUnigram;
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
};

// INVALID_ARGUMENT, saying what is wrong, for anything but a model of Gemma's kind: BPE or unigram, identity
// normalization, no dummy prefix, white space kept, all 256 byte pieces, distinct non-empty UTF-8 pieces.
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(absl::string_view bytes);

// A model whose encoder finds the same pieces, except that the ids for which `is_special` is true are control symbols,
// which SentencePiece never finds in text.
std::string SerializeForEncoding(const SentencePieceModel& model, const std::vector<bool>& is_special);

}  // namespace baton
