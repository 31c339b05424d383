// How the engine's sequences share too little memory: who gets more, who waits on disk, who comes back.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"
#include "decode/engine.h"

namespace baton {

using Phase = ActiveSequence::Phase;

void DecodeEngine::FindRoom() {
  TakeMoves();
  std::vector<ActiveSequence*> full;
  for (const auto& sequence : sequences_) {
    if (sequence->phase != Phase::kRunning) continue;
    if (sequence->state->position() == sequence->state->max_tokens()) full.push_back(sequence.get());
  }
  std::sort(full.begin(), full.end(), [](const auto* a, const auto* b) { return KeepsMemoryBefore(*a, *b); });
  bool someone_waits = false;
  for (ActiveSequence* sequence : full) {
    // Behind one that waits nobody gets memory, or the first would never have enough.
    sequence->waits_for_room = someone_waits || !Extend(*sequence);
    someone_waits |= sequence->waits_for_room;
  }
  if (someone_waits) {
    SpillLast();
  } else {
    RestoreSpilled();
  }
  ReportSpilled();
}

bool DecodeEngine::Extend(ActiveSequence& sequence) {
  SequenceState& state = *sequence.state;
  const int64_t wanted =
      std::min(sequence.request->call->request().total_tokens(), state.max_tokens() + int64_t{options_.reserve_output});
  BATON_CHECK(wanted > state.max_tokens());
  const StateLayout& layout = state.layout();
  const int64_t more = layout.BytesFor(wanted) - layout.BytesFor(state.max_tokens());
  if (!state.Extend(wanted).ok() && !(links_.make_room(more) && state.Extend(wanted).ok())) return false;
  metrics_->UpdateStateBytes();
  return true;
}

void DecodeEngine::SpillLast() {
  if (spilling_) return;
  ActiveSequence* last = nullptr;
  int in_memory = 0;
  for (const auto& sequence : sequences_) {
    if (sequence->phase == Phase::kMoving) ++in_memory;
    if (sequence->phase != Phase::kRunning) continue;
    ++in_memory;
    if (last == nullptr || KeepsMemoryBefore(*last, *sequence)) last = sequence.get();
  }
  // Alone, it waits for memory that is promised to others, who will come and end.
  if (in_memory < 2) return;
  spilling_ = true;
  StateMove move;
  move.state = std::move(last->state);
  SubmitMove(*last, std::move(move));
}

void DecodeEngine::RestoreSpilled() {
  std::vector<ActiveSequence*> spilled;
  for (const auto& sequence : sequences_) {
    if (sequence->phase == Phase::kSpilled) spilled.push_back(sequence.get());
  }
  if (spilled.empty()) return;
  // What those in memory may yet ask for: with less left than that, the one brought back would soon have to leave
  // again.
  int64_t promised = 0;
  for (const auto& sequence : sequences_) {
    if (sequence->phase != Phase::kRunning) continue;
    promised += layout_->BytesFor(sequence->request->call->request().total_tokens()) -
                layout_->BytesFor(sequence->state->max_tokens());
  }
  std::sort(spilled.begin(), spilled.end(), [](const auto* a, const auto* b) { return KeepsMemoryBefore(*a, *b); });
  for (ActiveSequence* sequence : spilled) {
    const int64_t tokens = sequence->request->call->request().total_tokens();
    const int64_t needed = layout_->BytesFor(tokens) + promised;
    const auto missing = [&] { return needed - (budget_->total() - budget_->used()); };
    if (missing() > 0) links_.make_room(missing());
    if (missing() > 0) return;
    absl::StatusOr<SequenceState> state = SequenceState::Create(layout_, *budget_, tokens);
    if (!state.ok()) return;
    StateMove move;
    move.state = *std::move(state);
    move.file = std::move(sequence->file);
    sequence->file.reset();
    SubmitMove(*sequence, std::move(move));
  }
}

void DecodeEngine::SubmitMove(ActiveSequence& sequence, StateMove move) {
  if (spiller_ == nullptr) {
    StateSpillerOptions options;
    options.directory = options_.spill_directory;
    options.fingerprint = model_->fingerprint();
    spiller_ = std::make_unique<StateSpiller>(options, [this] {
      absl::MutexLock lock(&mutex_);
      moves_done_ = true;
    });
  }
  // Shared by all states of this engine; asked for only here, since Create wants a shared one.
  if (layout_ == nullptr) layout_ = move.state->shared_layout();
  move.sequence = sequence.id;
  move.next_token = sequence.next_token;
  sequence.state.reset();
  sequence.waits_for_room = false;
  sequence.phase = Phase::kMoving;
  spiller_->Submit(std::move(move));
}

void DecodeEngine::TakeMoves() {
  if (spiller_ == nullptr) return;
  std::vector<StateMove> moves = spiller_->TakeDone();
  if (moves.empty()) return;
  for (StateMove& move : moves) {
    const bool to_disk = move.file.has_value() || (!move.status.ok() && move.state.has_value());
    if (to_disk) spilling_ = false;
    const auto found = std::find_if(sequences_.begin(), sequences_.end(),
                                    [&](const auto& sequence) { return sequence->id == move.sequence; });
    // Else it ended meanwhile.
    if (found != sequences_.end() && (*found)->phase == Phase::kMoving) EndMove(**found, std::move(move));
  }
  metrics_->UpdateStateBytes();
}

void DecodeEngine::EndMove(ActiveSequence& sequence, StateMove move) {
  DecodeCall& call = *sequence.request->call;
  if (move.status.ok() && move.file.has_value()) {
    metrics_->state_spills.Increment();
    sequence.file = std::move(move.file);
    sequence.phase = Phase::kSpilled;
    return;
  }
  if (move.status.ok()) {
    sequence.state = std::move(move.state);
    sequence.phase = Phase::kRunning;
    return;
  }
  metrics_->state_spill_failures.Increment();
  Log(Severity::kError, "state_spill_failed")
      .With("request_id", call.request().request_id)
      .With("directory", options_.spill_directory)
      .With("error", move.status);
  if (move.state.has_value()) {
    call.Finish(
        DecodeOutcome::kFailed,
        WithReason(absl::ResourceExhaustedError(absl::StrCat(
                       "the worker's memory is full and this sequence cannot wait on disk: ", move.status.message())),
                   "DECODE_MEMORY_FULL"));
  } else {
    call.Finish(DecodeOutcome::kFailed,
                WithReason(absl::UnavailableError(absl::StrCat(
                               "this sequence's state was lost while it waited on disk: ", move.status.message())),
                           "STATE_LOST"));
  }
  sequence.phase = Phase::kEnded;
}

void DecodeEngine::ReportSpilled() {
  int64_t spilled = 0;
  int64_t bytes = 0;
  bool waiting = false;
  for (const auto& sequence : sequences_) {
    waiting |= !sequence->runnable();
    if (sequence->phase != Phase::kSpilled) continue;
    ++spilled;
    bytes += sequence->file->bytes();
  }
  short_of_memory_.store(waiting, std::memory_order_relaxed);
  metrics_->sequences_spilled.Set(static_cast<double>(spilled));
  metrics_->spilled_bytes.Set(static_cast<double>(bytes));
}

}  // namespace baton
