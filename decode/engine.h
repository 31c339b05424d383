// The decode worker's engine: one thread that advances all sequences by one token per step.
//
// Continuous batching: before every step new sequences join and ended ones leave. A step takes up to max_batch of them;
// when there are more, those that have waited longest go first, and priority counts as extra steps of waiting, so that
// nobody starves. Which sequences share a step changes no token (see Model).
//
// Each sample of a request is a sequence of its own; what a step makes of them goes to their call in one event. While a
// reader is behind, its tokens are gathered into larger chunks, and beyond max_unread_tokens for each sample its
// sequences are ended rather than the others kept waiting.
//
// Short prompts may be computed here too, the more urgent and older ones first, a few tokens in each step: so few that
// a step with running sequences is hardly longer (common/rpc/local_prefill.h).
//
// Copies of states may go to standbys every so often (checkpoint_sender.h); a step begins a few of them at most.
//
// With reserve_output, a sequence's memory grows as it goes. When there is none left, the least urgent or newest
// sequence waits on disk until there is, and continues bit for bit.
//
//   DecodeEngine engine(&model, options, &budget, &metrics, &load);
//   engine.Start();
//   engine.Add(call, std::move(samples));                // any thread
//   engine.AddPrompt(call, std::move(room));             // any thread
//   engine.Leave(&left);                                  // stops what runs, for others to go on with
//   engine.Stop();                                        // ends what is left with UNAVAILABLE
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/model/model.h"
#include "common/rpc/worker_service.h"
#include "common/sampling/sampler.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"
#include "common/state/state_layout.h"
#include "decode/active_sequence.h"
#include "decode/checkpoint_sender.h"
#include "decode/decode_call.h"
#include "decode/decode_metrics.h"
#include "decode/left_states.h"
#include "decode/local_prompt.h"
#include "decode/samples.h"
#include "decode/sessions.h"
#include "decode/state_spiller.h"

namespace baton {

struct DecodeEngineOptions {
  // Sequences in one step.
  int max_batch = 64;
  // Tokens of one sample that its reader may lag behind, beyond what is queued for writing.
  int max_unread_tokens = 1024;
  // Output tokens that memory is reserved for at a time. 0: all that a request may generate, before it begins, so that
  // no sequence ever waits on disk.
  int reserve_output = 0;
  // Where sequences wait.
  std::string spill_directory = "/tmp";
  // Prompt tokens computed in a step without running sequences; beside those it is fewer. 0: no prompts are computed
  // here. The states' layout must allow runs of it.
  int local_prefill_chunk = 32;
  // Fault injection: sleep in every step.
  absl::Duration step_delay = absl::ZeroDuration();
};

// Prompts that one step computes parts of: each that ends there needs a row of logits.
inline constexpr int kMaxPromptsInStep = 8;

// What an engine may do without. Everything pointed at must outlive it.
struct DecodeEngineLinks {
  // Where sequences go that are to be kept.
  Sessions* sessions = nullptr;
  // Frees memory that holds what can be done without, at least so many bytes if there are. False: there was nothing.
  std::function<bool(int64_t bytes)> make_room = [](int64_t) { return false; };
  // Sends copies of states to standbys.
  CheckpointSender* checkpoints = nullptr;
};

class DecodeEngine {
 public:
  // Everything pointed at must outlive it; the model is used by this engine alone.
  DecodeEngine(Model* model, const DecodeEngineOptions& options, MemoryBudget* budget, DecodeMetrics* metrics,
               LoadReporter* load, DecodeEngineLinks links = {});
  ~DecodeEngine();
  DecodeEngine(const DecodeEngine&) = delete;

  void Start();
  void Stop();

  // The samples that go on, at least one, each once; their positions are the number of tokens in the request. Their
  // first tokens must not end them, and the request must have been checked (CheckRequest).
  void Add(std::shared_ptr<DecodeCall> call, std::vector<SampleStart> samples);
  // Computes the rest of the request's tokens, those from the state's position on, of which there is at least one;
  // tells the first tokens and goes on with the samples.
  void AddPrompt(std::shared_ptr<DecodeCall> call, Room room);
  // From now on every sequence is stopped: its state waits in `left`, and its call ends with a Leaving event and
  // UNAVAILABLE (DRAINING). Those that are on disk, or on their way there, are left without a state. `left` must
  // outlive the engine.
  void Leave(LeftStates* left) { left_.store(left, std::memory_order_release); }
  // Sequences wait for memory: no time to take on more.
  bool short_of_memory() const { return short_of_memory_.load(std::memory_order_relaxed); }

 private:
  void Loop();
  // Waits until there is something to do. False: stop.
  bool AdmitNew();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !arrivals_.empty() || !prompt_arrivals_.empty() || moves_done_ || can_step_;
  }
  // Removes sequences that have ended, are to end, or that nobody wants any more, and their memory.
  void DropEnded();
  // Stops all sequences (see Leave).
  void LeaveSequences(LeftStates& left);
  // Fills batch_ with the sequences of the next step.
  void SelectBatch();
  void Step();
  // Samples the next token of one sequence from its logits and tells its call.
  void Continue(ActiveSequence& sequence, absl::Span<const float> logits);
  // Keeps the state of a complete sequence that is to be kept.
  absl::optional<absl::Time> Keep(ActiveSequence& sequence, worker::v1::DoneReason reason);
  // The sequence is complete.
  void End(ActiveSequence& sequence, worker::v1::DoneReason reason);
  // Tells the call what its samples did in this step, unless it is behind.
  void Flush(ActiveRequest& request);
  void ReportRunning();
  // New samples, as sequences: those of one request share what belongs to it.
  static std::vector<std::unique_ptr<ActiveSequence>> MakeSequences(std::shared_ptr<DecodeCall> call,
                                                                    std::vector<SampleStart> samples,
                                                                    uint64_t* next_id);
  void Join(std::unique_ptr<ActiveSequence> sequence);
  // After a token: tells of the copy of its state that a standby has, and sends another if it is time.
  void Checkpoint(ActiveSequence& sequence);

  // --- Prompts that are computed here: engine_prompts.cc ---
  void AdmitPrompts() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropEndedPrompts();
  // Fills prompt_batch_ with the prompts of the next step, and says how many tokens of each.
  void SelectPrompts();
  // After a step. `logits`: a row for each prompt that is complete now.
  void ContinuePrompts(absl::Span<const float> logits);
  // Samples the first tokens, tells them, and lets the samples join.
  void CompletePrompt(LocalPrompt& prompt, absl::Span<const float> logits);
  // On the engine's thread.
  void CountPromptTokens() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReportPromptTokens() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // --- Memory that grows: engine_memory.cc ---
  // Gives every sequence that is to step the room it needs, or makes it wait.
  void FindRoom();
  // Sequences whose move to disk or back is over.
  void TakeMoves();
  void EndMove(ActiveSequence& sequence, StateMove move);
  // True when the state has room for one more token.
  bool Extend(ActiveSequence& sequence);
  // Sends the sequence that comes last to disk, unless one is on its way or it is alone.
  void SpillLast();
  // Brings those that wait on disk back, the first first, as long as all that are in memory can then come to their
  // ends.
  void RestoreSpilled();
  void SubmitMove(ActiveSequence& sequence, StateMove move);
  void ReportSpilled();

  Model* const model_;
  const DecodeEngineOptions options_;
  MemoryBudget* const budget_;
  DecodeMetrics* const metrics_;
  LoadReporter* const load_;
  const DecodeEngineLinks links_;

  absl::Mutex mutex_;
  std::vector<std::unique_ptr<ActiveSequence>> arrivals_ ABSL_GUARDED_BY(mutex_);
  std::vector<LocalPrompt> prompt_arrivals_ ABSL_GUARDED_BY(mutex_);
  // Tokens of prompts_, not computed yet.
  int64_t prompt_tokens_left_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool moves_done_ ABSL_GUARDED_BY(mutex_) = false;
  // Some sequence can take part in a step, or is to be dropped.
  bool can_step_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // The engine thread's own.
  std::vector<std::unique_ptr<ActiveSequence>> sequences_;
  // The more urgent first, then the older.
  std::vector<LocalPrompt> prompts_;
  // Of the next step.
  std::vector<ActiveSequence*> batch_;
  std::vector<LocalPrompt*> prompt_batch_;
  std::vector<SequenceRun> runs_;
  std::vector<float> logits_;  // [max_batch + kMaxPromptsInStep, vocab_size], grown as needed
  Sampler sampler_;
  int64_t step_ = 0;
  int64_t turns_ = 0;
  // Copies that this step has begun.
  int checkpoints_in_step_ = 0;
  // Made when first needed.
  std::unique_ptr<StateSpiller> spiller_;
  std::shared_ptr<const StateLayout> layout_;  // of all states
  bool spilling_ = false;
  std::atomic<bool> short_of_memory_{false};
  // Once the sequences are to leave.
  std::atomic<LeftStates*> left_{nullptr};
  std::thread thread_;
};

}  // namespace baton
