#include "tests/common/text/gemma_like_model.h"

#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

void Varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void Number(std::string& out, int field, uint64_t value) {
  Varint(out, field << 3);
  Varint(out, value);
}

void Bytes(std::string& out, int field, const std::string& bytes) {
  Varint(out, field << 3 | 2);
  Varint(out, bytes.size());
  out += bytes;
}

}  // namespace

ModelSpec GemmaLikeSpec() {
  ModelSpec spec;
  const auto add = [&](const std::string& piece, int type, float score = 0) {
    spec.pieces.push_back({piece, score, type});
  };
  add("<pad>", kControl);
  add("<eos>", kControl);
  add("<bos>", kControl);
  add("<unk>", kUnknown);
  for (const char* symbol : {"<mask>", "<2mass>", "[@BOS@]", "<unused0>", "<unused98>", "<start_of_turn>",
                             "<end_of_turn>", "<start_of_image>", "<|fim_prefix|>"}) {
    add(symbol, kUserDefined);
  }
  for (const char* symbol : {"\n", "\n\n", "\t", "\u2581\u2581", "\u2581\u2581\u2581", "<table>", "</table>", "<h1>",
                             "</h1>", "<s>", "</s>", "<code>"}) {
    add(symbol, kUserDefined);
  }
  for (int byte = 0; byte < 256; ++byte) add(absl::StrFormat("<0x%02X>", byte), kByte);
  float score = 0;
  for (const char* merge :
       {"th", "the", "st", "art", "turn", "ar", "tu", "rn", "un", "\u2581t", "\u2581the", "<b", "bos"}) {
    add(merge, kNormal, score -= 1);
  }
  add("\u2581", kNormal, -100);
  for (char letter = '!'; letter <= '~'; ++letter) add(std::string(1, letter), kNormal, -101 - letter);
  return spec;
}

std::string SerializeModel(const ModelSpec& spec) {
  std::string out;
  for (const ModelPiece& piece : spec.pieces) {
    std::string message;
    Bytes(message, 1, piece.piece);
    uint32_t bits;
    std::memcpy(&bits, &piece.score, sizeof(bits));
    Varint(message, 2 << 3 | 5);
    for (int shift = 0; shift < 32; shift += 8) message.push_back(static_cast<char>(bits >> shift));
    Number(message, 3, piece.type);
    Bytes(out, 1, message);
  }
  std::string trainer;
  Number(trainer, 3, spec.algorithm);
  Number(trainer, 24, spec.whitespace_as_suffix);
  Number(trainer, 35, spec.byte_fallback);
  Bytes(trainer, 46, "<bos>");
  Bytes(trainer, 47, "<eos>");
  Bytes(out, 2, trainer);
  std::string normalizer;
  Bytes(normalizer, 2, spec.charsmap);
  Number(normalizer, 3, spec.add_dummy_prefix);
  Number(normalizer, 4, spec.remove_extra_whitespaces);
  Number(normalizer, 5, spec.escape_whitespaces);
  Bytes(out, 3, normalizer);
  return out;
}

std::string ReadFileOrDie(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  BATON_CHECK(file.good());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace baton
