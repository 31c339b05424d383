// Memory promised to sequences whose state is on its way, from Decode.Run's answer until the state is verified.
//
// A reservation is addressed by (boot id, id, generation). Ids are slots and are used again; each use has the next
// generation, so a sender that is late by a lifetime finds nothing. The table holds exactly the reservations that wait
// for their state: verified and ended ones are gone from it.
//
// A state belongs to one party at a time: nobody while it waits, the sender's thread inside Feed, the caller of Take.
// When the Run call ends, End frees the state at once, or, when a Feed is under way, that Feed frees it as it returns.
//
//   BATON_ASSIGN_OR_RETURN(std::shared_ptr<Reservation> r, table.Create(call));      // Run
//   BATON_ASSIGN_OR_RETURN(std::shared_ptr<Reservation> r, table.Find(boot, id, g)); // Receive
//   BATON_RETURN_IF_ERROR(r->Claim(on_ended));
//   BATON_RETURN_IF_ERROR(r->Feed(frames)); ...
//   if (r->commit() != nullptr) room = table.Take(*r);
//
// A prompt that is computed here needs no sender: its room is taken at once, and the id and generation name its call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "common/rpc/worker_service.h"
#include "common/state/fingerprint.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"
#include "common/state/state_codec.h"
#include "common/state/state_snapshot.h"
#include "decode/decode_call.h"
#include "decode/decode_metrics.h"
#include "decode/samples.h"

namespace baton {

// After which a request that found no memory may try again: sequences end all the time, and a second is many steps.
inline constexpr absl::Duration kMemoryRetryDelay = absl::Seconds(1);

class Reservation {
 public:
  Reservation(uint64_t id, uint64_t generation, std::shared_ptr<DecodeCall> call, Room room, DecodeMetrics* metrics);
  Reservation(const Reservation&) = delete;

  uint64_t id() const { return id_; }
  uint64_t generation() const { return generation_; }
  int64_t bytes() const { return bytes_; }
  DecodeCall& call() const { return *call_; }
  const std::shared_ptr<DecodeCall>& shared_call() const { return call_; }

  // --- The sender's side: one thread at a time -----------------------------------------------------------------------
  // Makes the caller the only sender. `on_ended` is called (at most once, from any thread) when the reservation ends
  // before its state was taken.
  //   ALREADY_EXISTS  there is a sender   NOT_FOUND  the reservation has ended
  absl::Status Claim(const Fingerprint& fingerprint, std::function<void()> on_ended);
  // on_ended will not be called any more.
  void ForgetSender();
  // Errors of StateReader::Feed; NOT_FOUND when the reservation has ended.
  absl::Status Feed(absl::Span<const absl::string_view> frames);
  // nullptr until a commit was fed.
  const CommitRecord* commit() const;
  int64_t bytes_received() const;

 private:
  friend class Reservations;
  enum class Phase { kWaiting, kReceiving, kTaken, kEnded };

  // `from`: the phase it must be in.
  absl::StatusOr<Room> Take(Phase from);
  void End();
  void FreeState() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t id_;
  const uint64_t generation_;
  const int64_t bytes_;
  const std::shared_ptr<DecodeCall> call_;
  DecodeMetrics* const metrics_;

  absl::Mutex mutex_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kWaiting;
  // A Feed is under way: it alone touches state_ and reader_, without the lock.
  bool feeding_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> on_ended_ ABSL_GUARDED_BY(mutex_);
  // Whoever owns the state by the rules above. Absent once taken or freed.
  absl::optional<Room> room_;
  absl::optional<StateReader> reader_;
};

class Reservations {
 public:
  // Everything pointed at must outlive it. `reserve_output`: as DecodeEngineOptions. `make_room`: as DecodeEngineLinks.
  Reservations(std::string boot_id, std::shared_ptr<const StateLayout> layout, int reserve_output, MemoryBudget* budget,
               DecodeMetrics* metrics, LoadReporter* load, std::function<bool(int64_t bytes)> make_room);
  Reservations(const Reservations&) = delete;

  // Room for call->request().total_tokens() in each sample, or for the first reserve_output of its output.
  //   INVALID_ARGUMENT    more than the worker's whole memory
  //   RESOURCE_EXHAUSTED  no room now: RetryInfo, reason DECODE_MEMORY_FULL
  // `beginning`: what the state goes on from; null: nothing.
  absl::StatusOr<std::shared_ptr<Reservation>> Create(std::shared_ptr<DecodeCall> call,
                                                      const StateSnapshot* beginning = nullptr);
  // NOT_FOUND unless exactly this one is waiting for its state.
  absl::StatusOr<std::shared_ptr<Reservation>> Find(absl::string_view boot_id, uint64_t id, uint64_t generation) const;
  // The verified state of a reservation that has a commit, and the room of its forks. NOT_FOUND: it ended meanwhile.
  absl::StatusOr<Room> Take(Reservation& reservation);
  // The room of a reservation for which no sender will come. NOT_FOUND: it ended, or a sender came all the same.
  absl::StatusOr<Room> TakeUnfilled(Reservation& reservation);
  // The Run call is over. Does nothing when the state was taken.
  void End(Reservation& reservation);

  const std::string& boot_id() const { return boot_id_; }

 private:
  struct Slot {
    uint64_t generation = 0;
    std::shared_ptr<Reservation> reservation;
  };
  absl::StatusOr<Room> ReserveRoom(int64_t tokens, int64_t fork_bytes, const StateSnapshot* beginning);
  void Remove(const Reservation& reservation);
  void ReportWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string boot_id_;
  const std::shared_ptr<const StateLayout> layout_;
  const int reserve_output_;
  MemoryBudget* const budget_;
  DecodeMetrics* const metrics_;
  LoadReporter* const load_;
  const std::function<bool(int64_t)> make_room_;

  mutable absl::Mutex mutex_;
  // Id i is slots_[i - 1].
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> free_ids_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
