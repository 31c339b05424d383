// Everything a client may ask, checked and resolved: defaults filled in, the prompt tokenized, lengths cut to the
// model's context. What comes out can be given to workers as it is.
//
// All violations of a request are reported together, as a BadRequest with field paths ("sampling.top_p",
// "continuations[2].text"). docs/api.md lists fields, ranges and defaults.
//
//   absl::StatusOr<GenerationPlan> plan = CheckGenerate(request, request_id, model);
//     INVALID_ARGUMENT     violations; reason PROMPT_TOO_LONG when that is the only one
//     FAILED_PRECONDITION  text for a model without a tokenizer, chat for a model without turn symbols
//
// Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/rpc/worker_request.h"
#include "gateway/fleet.h"
#include "gateway/model_catalog.h"

namespace baton {

inline constexpr int kMaxChoices = 128;
inline constexpr int kMaxContinuations = 256;

// A generation request with nothing left to decide.
struct GenerationPlan {
  std::shared_ptr<const ServedModel> model;
  std::string request_id;
  std::vector<int32_t> prompt;
  worker::v1::Sampling sampling;
  // max_new_tokens is at least 1; stop_token_ids holds the model's EOS ids (unless ignored) and the caller's.
  worker::v1::Stopping stopping;
  std::vector<std::string> stop_strings;
  bool include_stop_in_output = false;
  absl::optional<double> time_limit_seconds;
  bool logprobs = false;
  int top_logprobs = 0;
  bool prompt_logprobs = false;
  bool token_ids = true;
  // The client has set `n`: it is told of choices, with their seeds and cumulative log probabilities.
  bool wants_choices = false;
  // This many choices that have finished end the request: 1 to choices().
  int stop_after = 1;
  // The key under which the finished sequence is kept; absent: it is not.
  absl::optional<worker::v1::SessionKey> keep;
  // Where the state of the prompt's beginning is kept; absent: nowhere.
  absl::optional<worker::v1::SessionSource> session;
  // The decode worker that has it in memory (null: none), and how many of the prompt's tokens it has consumed.
  std::shared_ptr<WorkerConnection> session_worker;
  int64_t session_tokens = 0;
  int priority = 0;
  std::string cache_salt;

  int choices() const { return 1 + sampling.further_seeds_size(); }
  uint64_t seed(int choice) const { return choice == 0 ? sampling.seed() : sampling.further_seeds(choice - 1); }
  // Of sampled tokens, whoever wants them.
  bool needs_logprobs() const { return logprobs || wants_choices; }
  bool IsStopToken(int32_t id) const;
  bool IsEos(int32_t id) const;
  bool needs_decode() const { return stopping.max_new_tokens() > 1 || keep.has_value(); }
};

// A kept conversation that a request goes on with.
struct SessionPrefix {
  std::vector<int32_t> tokens;
  worker::v1::SessionSource source;
  // The worker that has its state, of the first `position` tokens, in memory; null: it is in a file.
  std::shared_ptr<WorkerConnection> worker;
  int64_t position = 0;
};

struct ScorePlan {
  std::shared_ptr<const ServedModel> model;
  std::string request_id;
  // At least one token.
  std::vector<int32_t> context;
  // Each at least one token; context + continuation fit the model.
  std::vector<std::vector<int32_t>> continuations;
  int top_logprobs = 0;
  int priority = 0;
  std::string cache_salt;
};

// That of callers who have shown nothing.
inline std::string NoIdentity() { return std::string(kIdentityBytes, '\0'); }

// Printable ASCII, at most 128 bytes.
bool IsRequestId(absl::string_view text);

// `request_id`: as IsRequestId accepts it; the request's own field is not looked at.
// `identity`: a hash of what the caller has shown for itself (kIdentityBytes): what is kept, is kept for it.
// `prefix`: of request.session; the prompt follows it.
absl::StatusOr<GenerationPlan> CheckGenerate(const v1::GenerateRequest& request, const std::string& request_id,
                                             std::shared_ptr<const ServedModel> model,
                                             const std::string& identity = NoIdentity(),
                                             const absl::optional<SessionPrefix>& prefix = absl::nullopt);
absl::StatusOr<ScorePlan> CheckScore(const v1::ScoreRequest& request, const std::string& request_id,
                                     std::shared_ptr<const ServedModel> model);
absl::StatusOr<v1::TokenizeResponse> CheckAndTokenize(const v1::TokenizeRequest& request, const ServedModel& model);
absl::StatusOr<v1::DetokenizeResponse> CheckAndDetokenize(const v1::DetokenizeRequest& request,
                                                          const ServedModel& model);

}  // namespace baton
