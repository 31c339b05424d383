// Bytes that a terminal sends -> the keys that were pressed. A key's escape sequence may arrive in pieces.
//
//   KeyDecoder decoder;
//   for (const int key : decoder.Decode("q\033[A")) ...        // 'q', kKeyUp
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace baton::cli {

// Keys that are no characters; others are their byte.
inline constexpr int kKeyUp = 256;
inline constexpr int kKeyDown = 257;
inline constexpr int kKeyLeft = 258;
inline constexpr int kKeyRight = 259;
inline constexpr int kKeyPageUp = 260;
inline constexpr int kKeyPageDown = 261;
inline constexpr int kKeyHome = 262;
inline constexpr int kKeyEnd = 263;

class KeyDecoder {
 public:
  // Sequences of keys that are not listed above are left out. Alt and a key count as the key.
  std::vector<int> Decode(absl::string_view bytes);

 private:
  // An escape sequence's beginning.
  std::string pending_;
};

}  // namespace baton::cli
