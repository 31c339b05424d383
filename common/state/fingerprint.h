// 32 bytes that name a model, its weights, their precision and the state layout. State moves only between equal ones.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace baton {

struct Fingerprint {
  std::array<uint8_t, 32> bytes{};

  std::string ToHex() const;
  std::string ToBytes() const { return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }
  // False when `raw` is not 32 bytes long.
  static bool FromBytes(absl::string_view raw, Fingerprint* out);
  friend bool operator==(const Fingerprint& a, const Fingerprint& b) { return a.bytes == b.bytes; }
};

// Accumulates anything that must agree, in order (XXH3-128 with two seeds).
class FingerprintBuilder {
 public:
  FingerprintBuilder();
  ~FingerprintBuilder();
  FingerprintBuilder(const FingerprintBuilder&) = delete;
  // Length-prefixed, so that ("ab","c") != ("a","bc").
  void Add(absl::string_view data);
  void Add(int64_t value);
  Fingerprint Finish() const;

 private:
  struct State;
  State* state_;
};

}  // namespace baton
