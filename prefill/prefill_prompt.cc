#include "prefill/prefill_prompt.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

// Somebody needs the state.
bool HandsOff(const PrefillPrompt& prompt) {
  if (prompt.score_only) return false;
  return prompt.keep_state || prompt.request.max_new_tokens - prompt.request.generated_tokens > 1;
}

absl::Status CheckSession(const worker::v1::SessionSource& session) {
  BATON_RETURN_IF_ERROR(CheckSessionKey(session.key()));
  if (IsEndpoint(session.endpoint())) return absl::OkStatus();
  return BadRequestError({{"session.endpoint", "must be HOST:PORT of a decode worker that has the session"}});
}

absl::Status CheckHandoff(const worker::v1::PrefillRequest& request, const PrefillPrompt& prompt) {
  if (!request.has_handoff()) {
    if (!HandsOff(prompt)) return absl::OkStatus();
    return BadRequestError(
        {{"handoff", "must be given when more than the first token is to be generated, or the state to be kept"}});
  }
  if (!IsEndpoint(request.handoff().endpoint())) {
    return BadRequestError({{"handoff.endpoint", "must be HOST:PORT, where the decode worker can be reached"}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PrefillPrompt> CheckPrefillRequest(const worker::v1::PrefillRequest& request,
                                                  const PrefillLimits& limits) {
  PrefillPrompt prompt;
  BATON_ASSIGN_OR_RETURN(prompt.request, CheckRequest(request, limits.request));
  prompt.score_only = request.score_only();
  if (request.cache_salt().size() > kMaxCacheSaltBytes) {
    return BadRequestError({{"cache_salt", absl::StrCat("must be at most ", kMaxCacheSaltBytes, " bytes")}});
  }
  prompt.cache_salt = request.cache_salt();
  if (request.has_score_from()) prompt.score_from = request.score_from();
  if (prompt.score_only && !prompt.score_from.has_value()) {
    return BadRequestError({{"score_from", "must be given with score_only: nothing else would be computed"}});
  }
  prompt.keep_state = request.keep_state();
  BATON_RETURN_IF_ERROR(CheckHandoff(request, prompt));
  // With a budget of one more token the state would never be used, unless it is kept.
  if (request.has_handoff() && HandsOff(prompt)) prompt.handoff = request.handoff();
  if (request.has_session()) {
    BATON_RETURN_IF_ERROR(CheckSession(request.session()));
    prompt.session = request.session();
  }

  const int64_t bytes = limits.layout->BytesFor(prompt.tokens_to_compute());
  if (bytes > limits.state_bytes) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("a prompt of ", prompt.tokens(), " tokens needs ", FormatBytes(bytes),
                                                " of state, more than the ", FormatBytes(limits.state_bytes),
                                                " this prefill worker has in all (its --memory flag)")),
        "PREFILL_MEMORY_FULL");
  }
  return prompt;
}

}  // namespace baton
