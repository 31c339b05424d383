// What the decode engine knows of the sequences it advances; its thread's alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/sampling/sampler.h"
#include "common/state/sequence_state.h"
#include "common/state/spilled_state.h"
#include "decode/checkpoint_sender.h"
#include "decode/decode_call.h"
#include "decode/turn.h"

namespace baton {

// What the samples of one call share.
struct ActiveRequest {
  ActiveRequest(std::shared_ptr<DecodeCall> call_in, int live_in)
      : call(std::move(call_in)), sampling(call->request().sampling), live(live_in) {
    chunk_of.resize(static_cast<size_t>(call->request().samples()), kNoChunk);
  }

  static constexpr int kNoChunk = -1;

  // The chunk of `unread` that this sample's next token belongs to.
  worker::v1::TokenChunk* Chunk(int sample, int64_t position) {
    worker::v1::Progress* progress = unread.mutable_progress();
    int& chunk = chunk_of[static_cast<size_t>(sample)];
    if (chunk == kNoChunk) {
      chunk = progress->tokens_size();
      progress->add_tokens()->set_position(position);
      progress->mutable_tokens(chunk)->set_sample(sample);
    }
    return progress->mutable_tokens(chunk);
  }

  worker::v1::DecodeEvent TakeUnread() {
    worker::v1::DecodeEvent taken = std::move(unread);
    unread.Clear();
    unread_tokens = 0;
    std::fill(chunk_of.begin(), chunk_of.end(), kNoChunk);
    return taken;
  }

  const std::shared_ptr<DecodeCall> call;
  // Its seed is that of the sample just drawn: a copy for each would be large (allowed ids).
  SamplingParams sampling;
  // Samples that have not ended.
  int live;
  // Of this step, not sampled yet.
  int in_step = 0;
  // Sampled or ended, and not pushed yet.
  worker::v1::DecodeEvent unread;
  int64_t unread_tokens = 0;
  std::vector<int> chunk_of;
};

// One sample of a request.
struct ActiveSequence {
  // kRunning has its state in memory; kMoving is on its way to disk or back; kSpilled is on disk.
  enum class Phase { kRunning, kMoving, kSpilled, kEnded };

  // `id`: ascends in order of arrival.
  ActiveSequence(uint64_t id_in, std::shared_ptr<ActiveRequest> request_in, int sample_in, SequenceState state_in,
                 int32_t first_token)
      : id(id_in),
        request(std::move(request_in)),
        sample(sample_in),
        state(std::move(state_in)),
        next_token(first_token) {
    const SequenceRequest& asked = request->call->request();
    generated = asked.generated_tokens + 1;
    needs_history = HasPenalties(asked.sampling);
    if (needs_history) {
      history = asked.MakeHistory();
      history.AddOutput(next_token);
    }
    if (!asked.keep_id.empty()) output.push_back(next_token);
  }

  static bool HasPenalties(const SamplingParams& params) {
    return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
  }

  int priority() const { return request->call->request().priority; }
  // Takes part in the next step.
  bool runnable() const { return phase == Phase::kRunning && !waits_for_room; }

  const uint64_t id;
  const std::shared_ptr<ActiveRequest> request;
  const int sample;
  Phase phase = Phase::kRunning;
  // kRunning only.
  absl::optional<SequenceState> state;
  // kSpilled only.
  absl::optional<SpilledState> file;
  // kRunning: its state is full, and there was no memory for more.
  bool waits_for_room = false;
  // The token at the state's position, not consumed yet.
  int32_t next_token;
  // Tokens generated so far, next_token included.
  int64_t generated;
  bool needs_history;
  TokenHistory history;
  // Sampled here and before, from the first token on, when the sequence is to be kept.
  std::vector<int32_t> output;
  Turn turn;
  // Of its state to standbys; empty: none are made.
  CheckpointLease checkpoints;
};

// Who keeps its memory when there is too little: the more urgent, and of equally urgent ones who came first.
inline bool KeepsMemoryBefore(const ActiveSequence& a, const ActiveSequence& b) {
  return a.priority() != b.priority() ? a.priority() > b.priority() : a.id < b.id;
}

}  // namespace baton
