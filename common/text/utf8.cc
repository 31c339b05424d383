#include "common/text/utf8.h"

#include <cstdint>

namespace baton {
namespace {

bool IsUnicodeWhitespace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// `character` is one whole, valid character.
uint32_t CodePoint(absl::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(character[i])); };
  switch (character.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
}

// Length of the white space character that `text` ends with; 0 when it ends with another one.
size_t TrailingWhitespace(absl::string_view text) {
  for (size_t length = 1; length <= 3 && length <= text.size(); ++length) {
    const absl::string_view tail = text.substr(text.size() - length);
    const Utf8Sequence sequence = FirstUtf8Sequence(tail);
    if (sequence.kind == Utf8Sequence::kCharacter && sequence.length == length) {
      return IsUnicodeWhitespace(CodePoint(tail)) ? length : 0;
    }
  }
  return 0;
}

}  // namespace

Utf8Sequence FirstUtf8Sequence(absl::string_view text) {
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return {Utf8Sequence::kCharacter, 1};
  // Range of the second byte and number of bytes, by lead byte (Unicode 15, table 3-7).
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  size_t length = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Utf8Sequence::kInvalid, 1};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Sequence::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    if (byte < low || byte > high) return {Utf8Sequence::kInvalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Sequence::kCharacter, length};
}

size_t FindInvalidUtf8(absl::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    const Utf8Sequence sequence = FirstUtf8Sequence(text.substr(offset));
    if (sequence.kind != Utf8Sequence::kCharacter) return offset;
    offset += sequence.length;
  }
  return absl::string_view::npos;
}

void MoveUtf8(std::string& bytes, std::string& text, bool flush) {
  const absl::string_view all = bytes;
  size_t offset = 0;
  while (offset < all.size()) {
    const Utf8Sequence sequence = FirstUtf8Sequence(all.substr(offset));
    if (sequence.kind == Utf8Sequence::kIncomplete && !flush) break;
    const absl::string_view shown =
        sequence.kind == Utf8Sequence::kCharacter ? all.substr(offset, sequence.length) : kReplacementCharacter;
    text.append(shown.data(), shown.size());
    offset += sequence.length;
  }
  bytes.erase(0, offset);
}

absl::string_view StripUnicodeWhitespace(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Sequence sequence = FirstUtf8Sequence(text);
    if (sequence.kind != Utf8Sequence::kCharacter || !IsUnicodeWhitespace(CodePoint(text.substr(0, sequence.length)))) {
      break;
    }
    text.remove_prefix(sequence.length);
  }
  while (const size_t length = TrailingWhitespace(text)) text.remove_suffix(length);
  return text;
}

}  // namespace baton
