#include "common/text/sentencepiece_model.h"

#include <array>
#include <cmath>
#include <cstring>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"

namespace baton {
namespace {

// Far above any Gemma vocabulary (256000 pieces); a bound on what a hostile file can make us build.
constexpr size_t kMaxPieces = 1 << 21;
constexpr size_t kMaxPieceBytes = 4096;

// Field numbers of sentencepiece_model.proto.
constexpr uint32_t kModelPieces = 1;
constexpr uint32_t kModelTrainer = 2;
constexpr uint32_t kModelNormalizer = 3;
constexpr uint32_t kPiecePiece = 1;
constexpr uint32_t kPieceScore = 2;
constexpr uint32_t kPieceType = 3;
constexpr uint32_t kTrainerModelType = 3;
constexpr uint32_t kTrainerWhitespaceAsSuffix = 24;
constexpr uint32_t kTrainerByteFallback = 35;
constexpr uint32_t kTrainerBosPiece = 46;
constexpr uint32_t kTrainerEosPiece = 47;
constexpr uint32_t kNormalizerName = 1;
constexpr uint32_t kNormalizerCharsmap = 2;
constexpr uint32_t kNormalizerDummyPrefix = 3;
constexpr uint32_t kNormalizerRemoveExtraWhitespaces = 4;
constexpr uint32_t kNormalizerEscapeWhitespaces = 5;

// One field of a protobuf message; `bytes` for length-delimited ones, `number` for the others.
struct Field {
  enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  uint32_t id = 0;
  WireType type = kVarint;
  uint64_t number = 0;
  absl::string_view bytes;
};

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("not a SentencePiece model: ", what));
}

absl::Status NotGemma(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("not a tokenizer of Gemma's kind: ", what));
}

// Takes fields off the front of a message.
class FieldReader {
 public:
  explicit FieldReader(absl::string_view message) : rest_(message) {}

  bool AtEnd() const { return rest_.empty(); }

  absl::StatusOr<Field> Next() {
    BATON_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    if (tag >> 3 == 0 || tag >> 3 >= 1u << 29) return Malformed("bad field number");
    Field field;
    field.id = static_cast<uint32_t>(tag >> 3);
    field.type = static_cast<Field::WireType>(tag & 7);
    switch (tag & 7) {
      case Field::kVarint: {
        BATON_ASSIGN_OR_RETURN(field.number, Varint());
        return field;
      }
      case Field::kFixed32:
        return Fixed(field, 4);
      case Field::kFixed64:
        return Fixed(field, 8);
      case Field::kBytes: {
        BATON_ASSIGN_OR_RETURN(const uint64_t length, Varint());
        if (length > rest_.size()) return Malformed("truncated");
        field.bytes = rest_.substr(0, length);
        rest_.remove_prefix(length);
        return field;
      }
      default:
        return Malformed("unknown wire type");
    }
  }

 private:
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (rest_.empty()) return Malformed("truncated");
      const uint8_t byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      if (shift < 64) value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return Malformed("overlong number");
  }

  absl::StatusOr<Field> Fixed(Field field, size_t size) {
    if (rest_.size() < size) return Malformed("truncated");
    for (size_t i = 0; i < size; ++i) {
      field.number |= static_cast<uint64_t>(static_cast<uint8_t>(rest_[i])) << (8 * i);
    }
    rest_.remove_prefix(size);
    return field;
  }

  absl::string_view rest_;
};

absl::StatusOr<VocabularyPiece> ParsePiece(absl::string_view message) {
  VocabularyPiece piece;
  FieldReader reader(message);
  while (!reader.AtEnd()) {
    BATON_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.id == kPiecePiece && field.type == Field::kBytes) {
      piece.piece = std::string(field.bytes);
    } else if (field.id == kPieceScore && field.type == Field::kFixed32) {
      const uint32_t bits = static_cast<uint32_t>(field.number);
      std::memcpy(&piece.score, &bits, sizeof(bits));
    } else if (field.id == kPieceType && field.type == Field::kVarint) {
      if (field.number < 1 || field.number > 6) return Malformed(absl::StrCat("unknown piece type ", field.number));
      piece.type = static_cast<PieceType>(field.number);
    }
  }
  return piece;
}

absl::Status ParseTrainer(absl::string_view message, SentencePieceModel& model) {
  FieldReader reader(message);
  uint64_t algorithm = SentencePieceModel::kUnigram;
  bool byte_fallback = false;
  while (!reader.AtEnd()) {
    BATON_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.id == kTrainerModelType && field.type == Field::kVarint) algorithm = field.number;
    if (field.id == kTrainerByteFallback && field.type == Field::kVarint) byte_fallback = field.number != 0;
    if (field.id == kTrainerBosPiece && field.type == Field::kBytes) model.bos_piece = std::string(field.bytes);
    if (field.id == kTrainerEosPiece && field.type == Field::kBytes) model.eos_piece = std::string(field.bytes);
    if (field.id == kTrainerWhitespaceAsSuffix && field.type == Field::kVarint && field.number != 0) {
      return NotGemma("white space is a suffix of words");
    }
  }
  if (algorithm != SentencePieceModel::kUnigram && algorithm != SentencePieceModel::kBpe) {
    return NotGemma("its algorithm is neither BPE nor unigram");
  }
  if (!byte_fallback) return NotGemma("it has no byte fallback");
  model.algorithm = static_cast<SentencePieceModel::Algorithm>(algorithm);
  return absl::OkStatus();
}

absl::Status CheckNormalizer(absl::string_view message) {
  FieldReader reader(message);
  bool dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  while (!reader.AtEnd()) {
    BATON_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.id == kNormalizerCharsmap && !field.bytes.empty()) return NotGemma("it normalizes characters");
    if (field.type != Field::kVarint) continue;
    if (field.id == kNormalizerDummyPrefix) dummy_prefix = field.number != 0;
    if (field.id == kNormalizerRemoveExtraWhitespaces) remove_extra_whitespaces = field.number != 0;
    if (field.id == kNormalizerEscapeWhitespaces) escape_whitespaces = field.number != 0;
  }
  if (dummy_prefix) return NotGemma("it adds a dummy prefix");
  if (remove_extra_whitespaces) return NotGemma("it removes white space");
  if (!escape_whitespaces) return NotGemma("it does not escape white space");
  return absl::OkStatus();
}

absl::Status CheckPieces(const std::vector<VocabularyPiece>& pieces) {
  absl::flat_hash_map<absl::string_view, size_t> seen;
  seen.reserve(pieces.size());
  int unknown_pieces = 0;
  int byte_pieces = 0;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const VocabularyPiece& piece = pieces[id];
    if (piece.piece.empty()) return Malformed(absl::StrCat("piece ", id, " is empty"));
    if (piece.piece.size() > kMaxPieceBytes) return Malformed(absl::StrCat("piece ", id, " is too long"));
    if (piece.piece.find('\0') != std::string::npos) return Malformed(absl::StrCat("piece ", id, " contains NUL"));
    if (!IsValidUtf8(piece.piece)) return Malformed(absl::StrCat("piece ", id, " is not UTF-8"));
    if (!std::isfinite(piece.score)) return Malformed(absl::StrCat("the score of piece ", id, " is not finite"));
    const auto [first, inserted] = seen.emplace(piece.piece, id);
    if (!inserted) return Malformed(absl::StrCat("pieces ", first->second, " and ", id, " are the same"));
    unknown_pieces += piece.type == PieceType::kUnknown;
    byte_pieces += piece.type == PieceType::kByte;
  }
  if (unknown_pieces != 1) return Malformed(absl::StrCat(unknown_pieces, " unknown pieces instead of one"));
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = seen.find(absl::StrFormat("<0x%02X>", byte));
    if (found == seen.end() || pieces[found->second].type != PieceType::kByte) {
      return NotGemma(absl::StrFormat("it has no byte piece <0x%02X>", byte));
    }
  }
  if (byte_pieces != 256) return Malformed(absl::StrCat(byte_pieces, " byte pieces instead of 256"));
  return absl::OkStatus();
}

void AppendVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void AppendNumber(std::string& out, uint32_t field, uint64_t value) {
  AppendVarint(out, field << 3 | Field::kVarint);
  AppendVarint(out, value);
}

void AppendBytes(std::string& out, uint32_t field, absl::string_view bytes) {
  AppendVarint(out, field << 3 | Field::kBytes);
  AppendVarint(out, bytes.size());
  out.append(bytes.data(), bytes.size());
}

void AppendFloat(std::string& out, uint32_t field, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  AppendVarint(out, field << 3 | Field::kFixed32);
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(bits >> shift));
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(absl::string_view bytes) {
  SentencePieceModel model;
  absl::string_view trainer;
  absl::string_view normalizer;
  FieldReader reader(bytes);
  while (!reader.AtEnd()) {
    BATON_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.type != Field::kBytes) continue;
    if (field.id == kModelTrainer) trainer = field.bytes;
    if (field.id == kModelNormalizer) normalizer = field.bytes;
    if (field.id != kModelPieces) continue;
    if (model.pieces.size() == kMaxPieces) return Malformed(absl::StrCat("more than ", kMaxPieces, " pieces"));
    BATON_ASSIGN_OR_RETURN(VocabularyPiece piece, ParsePiece(field.bytes));
    model.pieces.push_back(std::move(piece));
  }
  if (model.pieces.empty()) return Malformed("no pieces");
  BATON_RETURN_IF_ERROR(ParseTrainer(trainer, model));
  BATON_RETURN_IF_ERROR(CheckNormalizer(normalizer));
  BATON_RETURN_IF_ERROR(CheckPieces(model.pieces));
  return model;
}

std::string SerializeForEncoding(const SentencePieceModel& model, const std::vector<bool>& is_special) {
  std::string out;
  std::string message;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const VocabularyPiece& piece = model.pieces[id];
    const bool hide = is_special[id] && piece.type != PieceType::kUnknown;
    message.clear();
    AppendBytes(message, kPiecePiece, piece.piece);
    AppendFloat(message, kPieceScore, piece.score);
    AppendNumber(message, kPieceType, static_cast<uint64_t>(hide ? PieceType::kControl : piece.type));
    AppendBytes(out, kModelPieces, message);
  }
  message.clear();
  AppendNumber(message, kTrainerModelType, model.algorithm);
  AppendNumber(message, kTrainerByteFallback, 1);
  AppendBytes(out, kModelTrainer, message);
  message.clear();
  AppendBytes(message, kNormalizerName, "identity");
  AppendNumber(message, kNormalizerDummyPrefix, 0);
  AppendNumber(message, kNormalizerRemoveExtraWhitespaces, 0);
  AppendNumber(message, kNormalizerEscapeWhitespaces, 1);
  AppendBytes(out, kModelNormalizer, message);
  return out;
}

}  // namespace baton
