#include "decode/reservations.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

absl::Status EndedError() { return absl::NotFoundError("the reservation has ended"); }

}  // namespace

Reservation::Reservation(uint64_t id, uint64_t generation, std::shared_ptr<DecodeCall> call, Room room,
                         DecodeMetrics* metrics)
    : id_(id),
      generation_(generation),
      bytes_(room.state.bytes() + room.forks.bytes()),
      call_(std::move(call)),
      metrics_(metrics),
      room_(std::move(room)) {}

absl::Status Reservation::Claim(const Fingerprint& fingerprint, std::function<void()> on_ended) {
  absl::MutexLock lock(&mutex_);
  if (phase_ == Phase::kReceiving) {
    return absl::AlreadyExistsError("another sender is already transferring this reservation's state");
  }
  if (phase_ != Phase::kWaiting) return EndedError();
  phase_ = Phase::kReceiving;
  on_ended_ = std::move(on_ended);
  reader_.emplace(fingerprint, &room_->state);
  return absl::OkStatus();
}

void Reservation::ForgetSender() {
  absl::MutexLock lock(&mutex_);
  on_ended_ = nullptr;
}

absl::Status Reservation::Feed(absl::Span<const absl::string_view> frames) {
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kReceiving) return EndedError();
    BATON_CHECK(!feeding_);
    feeding_ = true;
  }
  absl::Status status = reader_->Feed(frames);
  absl::MutexLock lock(&mutex_);
  feeding_ = false;
  if (phase_ == Phase::kEnded) {
    FreeState();
    return EndedError();
  }
  return status;
}

const CommitRecord* Reservation::commit() const {
  return reader_.has_value() && reader_->committed() ? &reader_->commit() : nullptr;
}

int64_t Reservation::bytes_received() const { return reader_.has_value() ? reader_->bytes_received() : 0; }

absl::StatusOr<Room> Reservation::Take(Phase from) {
  absl::MutexLock lock(&mutex_);
  if (phase_ != from) return EndedError();
  BATON_CHECK(!feeding_ && (from == Phase::kWaiting || reader_->committed()));
  phase_ = Phase::kTaken;
  on_ended_ = nullptr;
  Room room = *std::move(room_);
  room_.reset();
  return room;
}

void Reservation::End() {
  std::function<void()> on_ended;
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ == Phase::kTaken || phase_ == Phase::kEnded) return;
    phase_ = Phase::kEnded;
    on_ended = std::move(on_ended_);
    on_ended_ = nullptr;
    if (!feeding_) FreeState();
  }
  if (on_ended) on_ended();
}

void Reservation::FreeState() {
  room_.reset();
  metrics_->UpdateStateBytes();
}

Reservations::Reservations(std::string boot_id, std::shared_ptr<const StateLayout> layout, int reserve_output,
                           MemoryBudget* budget, DecodeMetrics* metrics, LoadReporter* load,
                           std::function<bool(int64_t bytes)> make_room)
    : boot_id_(std::move(boot_id)),
      layout_(std::move(layout)),
      reserve_output_(reserve_output),
      budget_(budget),
      metrics_(metrics),
      load_(load),
      make_room_(std::move(make_room)) {}

absl::StatusOr<std::shared_ptr<Reservation>> Reservations::Create(std::shared_ptr<DecodeCall> call,
                                                                  const StateSnapshot* beginning) {
  const SequenceRequest& request = call->request();
  const int64_t tokens = request.total_tokens();
  const int64_t bytes = layout_->BytesFor(tokens);
  const int64_t fork_bytes =
      layout_->ForkBytes(static_cast<int64_t>(request.tokens.size()), tokens, request.samples() - 1);
  if (bytes > budget_->total() || fork_bytes > budget_->total() - bytes) {
    const std::string forks = request.samples() > 1 ? absl::StrCat(", ", request.samples(), " samples of it ",
                                                                   FormatBytes(fork_bytes), " more")
                                                    : "";
    return WithReason(
        BadRequestError({{"tokens", absl::StrCat("the state of ", tokens, " tokens takes ", FormatBytes(bytes), forks,
                                                 "; this worker has ", FormatBytes(budget_->total()), " in all")}}),
        "PROMPT_TOO_LONG");
  }
  // The rest of its tokens are found room for as they come.
  const auto prompt_tokens = static_cast<int64_t>(request.tokens.size());
  const int64_t first_tokens = reserve_output_ > 0 ? std::min(tokens, prompt_tokens + reserve_output_) : tokens;
  const int64_t first_fork_bytes = layout_->ForkBytes(prompt_tokens, first_tokens, request.samples() - 1);
  absl::StatusOr<Room> room = ReserveRoom(first_tokens, first_fork_bytes, beginning);
  while (absl::IsResourceExhausted(room.status()) && make_room_(layout_->BytesFor(first_tokens) + first_fork_bytes)) {
    room = ReserveRoom(first_tokens, first_fork_bytes, beginning);
  }
  metrics_->UpdateStateBytes();
  if (absl::IsResourceExhausted(room.status())) {
    return WithRetryAfter(room.status(), kMemoryRetryDelay, "DECODE_MEMORY_FULL");
  }
  if (!room.ok()) return room.status();

  absl::MutexLock lock(&mutex_);
  if (free_ids_.empty()) {
    slots_.emplace_back();
    free_ids_.push_back(slots_.size());
  }
  const uint64_t id = free_ids_.back();
  free_ids_.pop_back();
  Slot& slot = slots_[id - 1];
  ++slot.generation;
  slot.reservation = std::make_shared<Reservation>(id, slot.generation, std::move(call), *std::move(room), metrics_);
  ReportWaiting();
  return slot.reservation;
}

absl::StatusOr<Room> Reservations::ReserveRoom(int64_t tokens, int64_t fork_bytes, const StateSnapshot* beginning) {
  BATON_ASSIGN_OR_RETURN(SequenceState state, beginning != nullptr
                                                  ? SequenceState::FromSnapshot(*beginning, *budget_, tokens)
                                                  : SequenceState::Create(layout_, *budget_, tokens));
  BATON_ASSIGN_OR_RETURN(MemoryReservation forks, budget_->Reserve(fork_bytes));
  return Room{std::move(state), std::move(forks)};
}

absl::StatusOr<std::shared_ptr<Reservation>> Reservations::Find(absl::string_view boot_id, uint64_t id,
                                                                uint64_t generation) const {
  if (boot_id != boot_id_) {
    return absl::NotFoundError("the reservation was made by an earlier start of this worker");
  }
  absl::MutexLock lock(&mutex_);
  if (id == 0 || id > slots_.size() || slots_[id - 1].reservation == nullptr ||
      slots_[id - 1].generation != generation) {
    return absl::NotFoundError(absl::StrCat("there is no reservation ", id, " of generation ", generation,
                                            ": its Decode.Run call has ended, or its state is complete"));
  }
  return slots_[id - 1].reservation;
}

absl::StatusOr<Room> Reservations::Take(Reservation& reservation) {
  BATON_ASSIGN_OR_RETURN(Room room, reservation.Take(Reservation::Phase::kReceiving));
  Remove(reservation);
  return room;
}

absl::StatusOr<Room> Reservations::TakeUnfilled(Reservation& reservation) {
  BATON_ASSIGN_OR_RETURN(Room room, reservation.Take(Reservation::Phase::kWaiting));
  Remove(reservation);
  return room;
}

void Reservations::End(Reservation& reservation) {
  Remove(reservation);
  reservation.End();
}

void Reservations::Remove(const Reservation& reservation) {
  // Destroyed after the lock is released.
  std::shared_ptr<Reservation> removed;
  absl::MutexLock lock(&mutex_);
  Slot& slot = slots_[reservation.id() - 1];
  if (slot.reservation.get() != &reservation) return;
  removed = std::move(slot.reservation);
  slot.reservation = nullptr;
  free_ids_.push_back(reservation.id());
  ReportWaiting();
}

void Reservations::ReportWaiting() {
  const int64_t waiting = static_cast<int64_t>(slots_.size() - free_ids_.size());
  load_->SetQueued(waiting);
  metrics_->requests_waiting.Set(static_cast<double>(waiting));
}

}  // namespace baton
