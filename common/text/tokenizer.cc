#include "common/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/text/sentencepiece_encoder.h"
#include "common/text/sentencepiece_model.h"
#include "common/text/utf8.h"
#include "common/text/vocabulary.h"

namespace baton {
namespace {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const SentencePieceModel& model) : vocabulary_(model.pieces) {}

  absl::Status Init(const SentencePieceModel& model) {
    std::string error;
    encoder_ = SentencePieceEncoder::Load(SerializeForEncoding(model, vocabulary_.special()), &error);
    if (encoder_ == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("SentencePiece refuses the model: ", error));
    }
    ids_.reserve(vocabulary_.size());
    for (int32_t id = 0; id < vocab_size(); ++id) {
      const std::string& piece = vocabulary_.piece(id);
      ids_.emplace(piece, id);
      if (IsSpecial(id)) specials_by_first_byte_[FirstByte(piece)].push_back(id);
    }
    for (std::vector<int32_t>& specials : specials_by_first_byte_) {
      std::sort(specials.begin(), specials.end(),
                [&](int32_t a, int32_t b) { return vocabulary_.piece(a).size() > vocabulary_.piece(b).size(); });
    }
    for (int byte = 0; byte < 256; ++byte) byte_ids_[byte] = ids_.at(absl::StrFormat("<0x%02X>", byte));
    bos_id_ = ControlId(model.bos_piece);
    eos_id_ = ControlId(model.eos_piece);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, const EncodeOptions& options) const override {
    if (const size_t offset = FindInvalidUtf8(text); offset != absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("text is not valid UTF-8 at byte ", offset));
    }
    std::vector<int32_t> ids;
    if (!options.parse_special) {
      BATON_RETURN_IF_ERROR(EncodePlain(text, ids));
      return ids;
    }
    size_t plain_begin = 0;
    for (size_t offset = 0; offset < text.size();) {
      const int32_t special = SpecialAt(text.substr(offset));
      if (special < 0) {
        ++offset;
        continue;
      }
      BATON_RETURN_IF_ERROR(EncodePlain(text.substr(plain_begin, offset - plain_begin), ids));
      ids.push_back(special);
      offset += vocabulary_.piece(special).size();
      plain_begin = offset;
    }
    BATON_RETURN_IF_ERROR(EncodePlain(text.substr(plain_begin), ids));
    return ids;
  }

  std::string TokenBytes(int32_t id, bool keep_special) const override {
    return vocabulary_.TokenBytes(id, keep_special);
  }

  std::string Decode(absl::Span<const int32_t> ids, bool keep_special) const override {
    std::string bytes;
    for (const int32_t id : ids) vocabulary_.AppendTokenBytes(id, keep_special, bytes);
    std::string text;
    MoveUtf8(bytes, text, /*flush=*/true);
    return text;
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(vocabulary_.size()); }
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }

  int32_t PieceId(absl::string_view piece) const override {
    const auto found = ids_.find(piece);
    return found == ids_.end() ? -1 : found->second;
  }

  std::string Piece(int32_t id) const override {
    return vocabulary_.Contains(id) ? vocabulary_.piece(id) : std::string();
  }
  bool IsSpecial(int32_t id) const override { return vocabulary_.IsSpecial(id); }

 private:
  static uint8_t FirstByte(absl::string_view text) { return static_cast<uint8_t>(text.front()); }

  int32_t ControlId(absl::string_view piece) const {
    const int32_t id = PieceId(piece);
    return IsSpecial(id) ? id : -1;
  }

  // The longest special symbol that `text` starts with, or -1.
  int32_t SpecialAt(absl::string_view text) const {
    for (const int32_t id : specials_by_first_byte_[FirstByte(text)]) {
      if (absl::StartsWith(text, vocabulary_.piece(id))) return id;
    }
    return -1;
  }

  // The encoder knows the special symbols as control symbols, so it spells their names with ordinary pieces.
  absl::Status EncodePlain(absl::string_view text, std::vector<int32_t>& ids) const {
    while (!text.empty()) {
      // SentencePiece can't tell U+2581 in a text from a space, so that character is spelled by bytes.
      const size_t symbol = text.find(kSpaceSymbol);
      const absl::string_view part = text.substr(0, symbol);
      std::string error;
      if (!part.empty() && !encoder_->Encode(std::string_view(part.data(), part.size()), &ids, &error)) {
        return absl::InternalError(absl::StrCat("SentencePiece: ", error));
      }
      if (symbol == absl::string_view::npos) break;
      for (const char byte : kSpaceSymbol) ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
      text.remove_prefix(symbol + kSpaceSymbol.size());
    }
    return absl::OkStatus();
  }

  const Vocabulary vocabulary_;
  std::unique_ptr<SentencePieceEncoder> encoder_;
  // Keys are views of the vocabulary's pieces.
  absl::flat_hash_map<absl::string_view, int32_t> ids_;
  // Longest name first.
  std::array<std::vector<int32_t>, 256> specials_by_first_byte_;
  std::array<int32_t, 256> byte_ids_ = {};
  int32_t bos_id_ = -1;
  int32_t eos_id_ = -1;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromModel(absl::string_view model) {
  BATON_ASSIGN_OR_RETURN(const SentencePieceModel parsed, ParseSentencePieceModel(model));
  auto tokenizer = std::make_unique<SentencePieceTokenizer>(parsed);
  BATON_RETURN_IF_ERROR(tokenizer->Init(parsed));
  return tokenizer;
}

}  // namespace baton
