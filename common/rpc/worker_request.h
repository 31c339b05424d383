// What Prefill.Run and Decode.Run have in common, checked field by field and converted to our own types. A peer is not
// trusted to be a well-behaved gateway: whatever comes out of CheckRequest can be given to the engine as it is.
//
//   absl::StatusOr<SequenceRequest> request = CheckRequest(proto, limits);
//   if (!request.ok()) return reactor->Finish(ToGrpcStatus(request.status()));
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/sampling/sampler.h"
#include "common/state/fingerprint.h"
#include "common/state/state_codec.h"

namespace baton {

inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxPriority = 100;
inline constexpr int kMaxRequestIdBytes = 128;
inline constexpr size_t kMaxCacheSaltBytes = 128;
inline constexpr int kMaxStopTokenIds = 1024;
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;
inline constexpr int kMaxLogitBiasEntries = 1024;
inline constexpr size_t kSessionIdBytes = 16;
inline constexpr size_t kIdentityBytes = 32;
inline constexpr int kMaxStandbys = 8;

// What a worker accepts.
struct RequestLimits {
  Fingerprint fingerprint;
  int64_t vocab_size = 0;
  // Prompt plus output.
  int64_t max_tokens = 0;
};

struct SequenceRequest {
  std::string request_id;
  // Prompt, then `generated_tokens` tokens that were generated before this run. Never empty; all ids in range.
  std::vector<int32_t> tokens;
  int32_t generated_tokens = 0;
  // Of sample 0; the others differ in their seeds.
  SamplingParams sampling;
  // Of samples 1, 2, ...
  std::vector<uint64_t> further_seeds;
  // Counts generated_tokens and the first token.
  int32_t max_new_tokens = 0;
  int32_t min_new_tokens = 0;
  // Ascending, without duplicates.
  std::vector<int32_t> stop_token_ids;
  bool logprobs = false;
  int top_logprobs = 0;
  int priority = 0;
  // DecodeRequest: the key to keep the finished sequence under; empty: it is not kept.
  std::string keep_id;
  std::string keep_identity;
  // DecodeRequest: what ends the sequence when its text contains it, and whether stop tokens are part of that text.
  // Only of one that is kept.
  std::vector<std::string> stop_strings;
  bool include_stop_tokens = false;
  // DecodeRequest: the worker computes the prompt itself, going on from this session unless the id is empty.
  bool compute_prompt = false;
  std::string session_id;
  std::string session_identity;
  // DecodeRequest: where copies of the samples' states may go.
  std::vector<std::string> standbys;

  int samples() const { return 1 + static_cast<int>(further_seeds.size()); }
  uint64_t seed(int sample) const {
    return sample == 0 ? sampling.seed : further_seeds[static_cast<size_t>(sample - 1)];
  }
  // Tokens of one sample when it is complete: what its state is reserved for.
  int64_t total_tokens() const { return static_cast<int64_t>(tokens.size()) - generated_tokens + max_new_tokens; }
  bool IsStop(int32_t id) const;
  // Why a sample ends with `token`, the last of `generated` generated ones, whatever its text says; absent: it goes on.
  absl::optional<worker::v1::DoneReason> EndAt(int32_t token, int64_t generated) const;
  // Ids that may not be sampled as the token that follows `generated` generated ones.
  absl::Span<const int32_t> MaskedIds(int64_t generated) const {
    return generated < min_new_tokens ? absl::Span<const int32_t>(stop_token_ids) : absl::Span<const int32_t>();
  }
  // Prompt tokens and generated ones as penalties want them.
  TokenHistory MakeHistory() const;
};

//   INVALID_ARGUMENT    with a BadRequest violation for every bad field; reason PROMPT_TOO_LONG when tokens and
//                       max_new_tokens exceed max_tokens
//   FAILED_PRECONDITION reason FINGERPRINT_MISMATCH
absl::StatusOr<SequenceRequest> CheckRequest(const worker::v1::DecodeRequest& request, const RequestLimits& limits);

// Also checks score_from, and that a handoff is complete when there is one. With score_only, sampling and stopping are
// not looked at and max_new_tokens is 0.
absl::StatusOr<SequenceRequest> CheckRequest(const worker::v1::PrefillRequest& request, const RequestLimits& limits);

// host:port (IPv6 hosts in brackets) and nothing else: no other scheme of gRPC's target names.
bool IsEndpoint(absl::string_view text);
// A new id for a state that `identity` may ask for.
worker::v1::SessionKey NewSessionKey(const std::string& identity);
// INVALID_ARGUMENT unless both parts have their lengths.
absl::Status CheckSessionKey(const worker::v1::SessionKey& key);

SamplingParams FromProto(const worker::v1::Sampling& sampling);
void ToProto(const TokenLogprob& logprob, worker::v1::TokenLogprobs* out);
// The record of a first token, from what the sampler gave.
FirstTokenRecord MakeFirstTokenRecord(int32_t id);
FirstTokenRecord MakeFirstTokenRecord(int32_t id, const TokenLogprob& logprob);

}  // namespace baton
