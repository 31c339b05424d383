// The one place that includes SentencePiece. Its header declares absl::string_view as std::string_view, which
// Debian's abseil does not, so the two cannot meet in a translation unit: this interface uses the standard library
// alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

// Immutable, thread-safe.
class SentencePieceEncoder {
 public:
  // Null and `error` set when SentencePiece refuses the model.
  static std::unique_ptr<SentencePieceEncoder> Load(std::string_view serialized_model, std::string* error);
  virtual ~SentencePieceEncoder() = default;

  // Appends the ids of `text` (valid UTF-8). False and `error` set when SentencePiece fails.
  virtual bool Encode(std::string_view text, std::vector<int32_t>* ids, std::string* error) const = 0;
};

}  // namespace baton
