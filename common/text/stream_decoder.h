// Tokens in, text deltas out: never half a UTF-8 character, never a prefix of a stop string that may still match,
// nothing after a match. One per stream; not thread-safe.
//
// Gateways make what clients read with it, and decode workers find the token at which a conversation that is kept ends:
// what completes a stop string is the same for both.
//
//   StreamDecoder decoder(tokenizer, {.stop = {"\n\n"}});
//   StreamDecoder::Step step = decoder.Push(id);   // step.text is safe to send
//   if (step.matched_stop >= 0) ...                // generation ends here
//   std::string rest = decoder.Flush();            // at a normal end: what was held back
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/text/vocabulary.h"

namespace baton {

struct StreamDecoderOptions {
  // Valid UTF-8; empty ones never match.
  std::vector<std::string> stop;
  // Keep the matched stop string in the text.
  bool include_stop = false;
  // Show control tokens by name.
  bool keep_special = false;
};

class StreamDecoder {
 public:
  struct Step {
    std::string text;
    // Index in options.stop of the string that matched (the one that ends earliest; then the longest), or -1.
    int matched_stop = -1;
  };

  // `tokens` must outlive the decoder.
  StreamDecoder(const TokenText* tokens, StreamDecoderOptions options);
  // Nothing after a match.
  Step Push(int32_t id);
  // Everything held back; incomplete UTF-8 becomes U+FFFD (cut, should that complete a stop string). Empty after a
  // match. The stream has ended: later calls return nothing.
  std::string Flush();

 private:
  Step Release(bool flush);
  const TokenText* tokens_;
  StreamDecoderOptions options_;
  // Token bytes that do not make a whole character yet.
  std::string bytes_;
  // Whole characters that may be the beginning of a stop string.
  std::string held_;
  bool done_ = false;
};

}  // namespace baton
