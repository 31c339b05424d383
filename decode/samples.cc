#include "decode/samples.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

using worker::v1::DoneReason;

// Keeps the state of the one sample, which ended with its first token, and tells until when.
void KeepEnded(DecodeCall& call, int32_t first_token, DoneReason reason, SequenceState state, Sessions* sessions) {
  const SequenceRequest& request = call.request();
  std::vector<int32_t> kept = request.tokens;
  if (reason != worker::v1::STOP_TOKEN) kept.push_back(first_token);
  absl::optional<absl::Time> until;
  if (sessions != nullptr && !call.over()) {
    until = sessions->Keep({request.keep_id, request.keep_identity}, std::move(kept), std::move(state));
  }
  worker::v1::DecodeEvent event;
  worker::v1::SampleDone* done = event.mutable_progress()->add_done();
  done->set_reason(reason);
  done->set_handoff_wait_seconds(call.handoff_wait_seconds());
  if (until.has_value()) done->set_kept_until_ms(absl::ToUnixMillis(*until));
  call.events().Push(std::move(event));
}

}  // namespace

absl::StatusOr<std::vector<SampleStart>> BeginSamples(DecodeCall& call, Room room,
                                                      absl::Span<const FirstTokenRecord> first_tokens,
                                                      MemoryBudget* budget, Sessions* sessions) {
  const SequenceRequest& request = call.request();
  std::vector<SampleStart> samples;
  absl::optional<DoneReason> end;
  for (size_t i = 0; i < first_tokens.size(); ++i) {
    end = call.sample_end().Push(first_tokens[i].id, int64_t{request.generated_tokens} + 1);
    if (end.has_value()) continue;
    if (samples.empty()) {
      samples.push_back({static_cast<int>(i), std::move(room.state), first_tokens[i].id});
      continue;
    }
    SequenceState& first = samples.front().state;
    BATON_ASSIGN_OR_RETURN(SequenceState fork, first.Fork(*budget, room.forks, first.max_tokens()));
    samples.push_back({static_cast<int>(i), std::move(fork), first_tokens[i].id});
  }
  if (!samples.empty()) {
    for (size_t i = samples.size(); i < first_tokens.size(); ++i) call.CountSample(DecodeOutcome::kStop);
    return samples;
  }
  if (!request.keep_id.empty()) KeepEnded(call, first_tokens[0].id, *end, std::move(room.state), sessions);
  // The memory is free before the caller hears of the end.
  { const Room freed = std::move(room); }
  call.Finish(OutcomeOf(*end), absl::OkStatus());
  return samples;
}

}  // namespace baton
