#include "gateway/cli/keys.h"

#include <utility>

namespace baton::cli {
namespace {

constexpr char kEscape = '\033';
// No key's sequence is longer.
constexpr size_t kMaxSequence = 16;

bool IsFinal(char byte) { return byte >= 0x40 && byte <= 0x7E; }

// `sequence` is ESC [ parameters final, or ESC O final. 0: a key of no interest.
int KeyOf(absl::string_view sequence) {
  switch (sequence.back()) {
    case 'A':
      return kKeyUp;
    case 'B':
      return kKeyDown;
    case 'C':
      return kKeyRight;
    case 'D':
      return kKeyLeft;
    case 'H':
      return kKeyHome;
    case 'F':
      return kKeyEnd;
    case '~':
      break;
    default:
      return 0;
  }
  const absl::string_view number = sequence.substr(2, sequence.size() - 3);
  if (number == "1" || number == "7") return kKeyHome;
  if (number == "4" || number == "8") return kKeyEnd;
  if (number == "5") return kKeyPageUp;
  if (number == "6") return kKeyPageDown;
  return 0;
}

}  // namespace

std::vector<int> KeyDecoder::Decode(absl::string_view bytes) {
  std::vector<int> keys;
  for (const char byte : bytes) {
    if (byte == kEscape) {
      pending_.assign(1, kEscape);
      continue;
    }
    if (pending_.empty()) {
      keys.push_back(static_cast<unsigned char>(byte));
      continue;
    }
    pending_.push_back(byte);
    if (pending_.size() == 2) {
      if (byte == '[' || byte == 'O') continue;
      keys.push_back(static_cast<unsigned char>(byte));
      pending_.clear();
      continue;
    }
    if (!IsFinal(byte) && pending_.size() < kMaxSequence) continue;
    const int key = IsFinal(byte) ? KeyOf(pending_) : 0;
    if (key != 0) keys.push_back(key);
    pending_.clear();
  }
  return keys;
}

}  // namespace baton::cli
