// UTF-8 as Unicode defines it: no surrogates, no overlong forms, nothing above U+10FFFF.
//
// Invalid input is cut into "maximal subparts" (Unicode 15, table 3-8; what Python's errors="replace" does), each shown
// as one U+FFFD. The cut depends only on the bytes, so a stream replaced piece by piece equals the whole replaced at
// once.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace baton {

inline constexpr absl::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// What the first bytes of a text are.
struct Utf8Sequence {
  enum Kind {
    kCharacter,
    // No character starts with these bytes.
    kInvalid,
    // The text ends inside a character that further bytes could complete.
    kIncomplete,
  };
  Kind kind;
  // Bytes of the sequence, at least 1.
  size_t length;
};
// `text` must not be empty.
Utf8Sequence FirstUtf8Sequence(absl::string_view text);

// Offset of the first byte that is not part of a whole character; npos when the text is valid.
size_t FindInvalidUtf8(absl::string_view text);
inline bool IsValidUtf8(absl::string_view text) { return FindInvalidUtf8(text) == absl::string_view::npos; }

// Moves the characters that `bytes` starts with to the end of `text`, invalid ones as U+FFFD. An incomplete character
// at the end stays in `bytes`, unless `flush`, which shows it as U+FFFD too.
void MoveUtf8(std::string& bytes, std::string& text, bool flush);

// Without surrounding white space (the set of Python's str.strip, which reference chat templates use).
absl::string_view StripUnicodeWhitespace(absl::string_view text);

}  // namespace baton
