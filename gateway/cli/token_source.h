// Where `tokenize` and `detokenize` get their tokenizer: the gateway, or the tokenizer.model of a directory (offline).
// Both answer the same messages.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "baton/v1/inference.pb.h"
#include "gateway/cli/session.h"

namespace baton::cli {

class TokenSource {
 public:
  virtual ~TokenSource() = default;
  // The request's model is filled in. Thread-safe.
  virtual absl::StatusOr<v1::TokenizeResponse> Tokenize(v1::TokenizeRequest request) = 0;
  virtual absl::StatusOr<v1::DetokenizeResponse> Detokenize(v1::DetokenizeRequest request) = 0;
  // Calls that pay when made at once.
  virtual int parallel() const = 0;

  // `model_dir` empty: the gateway.
  static absl::StatusOr<std::unique_ptr<TokenSource>> Make(const std::string& model_dir, Session& session);
};

}  // namespace baton::cli
