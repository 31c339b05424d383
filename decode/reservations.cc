#include "decode/reservations.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

// Sequences end all the time; a second is many decode steps.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

int64_t TotalBytes(const std::vector<SequenceState>& states) {
  int64_t bytes = 0;
  for (const SequenceState& state : states) bytes += state.bytes();
  return bytes;
}

void CopyState(const SequenceState& from, SequenceState& to) {
  const StateLayout& layout = from.layout();
  for (int layer = 0; layer < static_cast<int>(layout.layers.size()); ++layer) {
    const LayerStateSpec& spec = layout.layers[static_cast<size_t>(layer)];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
      std::copy(from.RgLruState(layer).begin(), from.RgLruState(layer).end(), to.RgLruState(layer).begin());
      std::copy(from.ConvState(layer).begin(), from.ConvState(layer).end(), to.ConvState(layer).begin());
      continue;
    }
    const size_t row_bytes = static_cast<size_t>(spec.head_dim * ElementBytes(layout.element));
    const int64_t first = from.FirstNeededPosition(layer, from.position());
    for (int head = 0; head < spec.kv_heads; ++head) {
      from.ForEachKvSpan(layer, head, first, from.position(), [&](const KvSpan& span) {
        for (int64_t i = 0; i < span.count; ++i) {
          const size_t offset = static_cast<size_t>(i) * row_bytes;
          std::memcpy(to.MutableKeyRow(layer, head, span.first_position + i), span.keys + offset, row_bytes);
          std::memcpy(to.MutableValueRow(layer, head, span.first_position + i), span.values + offset, row_bytes);
        }
      });
    }
  }
  to.SetPosition(from.position());
}

absl::Status EndedError() { return absl::NotFoundError("the reservation has ended"); }

}  // namespace

Reservation::Reservation(uint64_t id, uint64_t generation, std::shared_ptr<DecodeCall> call,
                         std::vector<SequenceState> states, DecodeMetrics* metrics)
    : id_(id),
      generation_(generation),
      bytes_(TotalBytes(states)),
      call_(std::move(call)),
      metrics_(metrics),
      states_(std::move(states)) {}

absl::Status Reservation::Claim(const Fingerprint& fingerprint, std::function<void()> on_ended) {
  absl::MutexLock lock(&mutex_);
  if (phase_ == Phase::kReceiving) {
    return absl::AlreadyExistsError("another sender is already transferring this reservation's state");
  }
  if (phase_ != Phase::kWaiting) return EndedError();
  phase_ = Phase::kReceiving;
  on_ended_ = std::move(on_ended);
  reader_.emplace(fingerprint, &states_.front());
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
  const absl::Status status = reader_->Feed(frames);
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

absl::StatusOr<std::vector<SequenceState>> Reservation::Take(int samples) {
  std::vector<SequenceState> states;
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kReceiving) return EndedError();
    BATON_CHECK(!feeding_ && reader_->committed());
    phase_ = Phase::kTaken;
    on_ended_ = nullptr;
    states = std::move(states_);
    states_.clear();
  }
  states.erase(states.begin() + samples, states.end());
  for (int i = 1; i < samples; ++i) CopyState(states.front(), states[static_cast<size_t>(i)]);
  metrics_->UpdateStateBytes();
  return states;
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
  states_.clear();
  metrics_->UpdateStateBytes();
}

Reservations::Reservations(std::string boot_id, std::shared_ptr<const StateLayout> layout, MemoryBudget* budget,
                           DecodeMetrics* metrics, LoadReporter* load)
    : boot_id_(std::move(boot_id)), layout_(std::move(layout)), budget_(budget), metrics_(metrics), load_(load) {}

absl::StatusOr<std::shared_ptr<Reservation>> Reservations::Create(std::shared_ptr<DecodeCall> call) {
  const int64_t tokens = call->request().total_tokens();
  const int samples = call->request().samples();
  const int64_t bytes = layout_->BytesFor(tokens);
  if (bytes > budget_->total() / samples) {
    const std::string copies = samples > 1 ? absl::StrCat(", for each of ", samples, " samples") : "";
    return WithReason(
        BadRequestError({{"tokens", absl::StrCat("the state of ", tokens, " tokens takes ", FormatBytes(bytes), copies,
                                                 "; this worker has ", FormatBytes(budget_->total()), " in all")}}),
        "PROMPT_TOO_LONG");
  }
  absl::StatusOr<std::vector<SequenceState>> states = CreateStates(tokens, samples);
  metrics_->UpdateStateBytes();
  if (absl::IsResourceExhausted(states.status())) {
    return WithRetryAfter(states.status(), kRetryDelay, "DECODE_MEMORY_FULL");
  }
  if (!states.ok()) return states.status();

  absl::MutexLock lock(&mutex_);
  if (free_ids_.empty()) {
    slots_.emplace_back();
    free_ids_.push_back(slots_.size());
  }
  const uint64_t id = free_ids_.back();
  free_ids_.pop_back();
  Slot& slot = slots_[id - 1];
  ++slot.generation;
  slot.reservation = std::make_shared<Reservation>(id, slot.generation, std::move(call), *std::move(states), metrics_);
  ReportWaiting();
  return slot.reservation;
}

absl::StatusOr<std::vector<SequenceState>> Reservations::CreateStates(int64_t tokens, int samples) {
  std::vector<SequenceState> states;
  for (int i = 0; i < samples; ++i) {
    BATON_ASSIGN_OR_RETURN(SequenceState state, SequenceState::Create(layout_, *budget_, tokens));
    states.push_back(std::move(state));
  }
  return states;
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

absl::StatusOr<std::vector<SequenceState>> Reservations::Take(Reservation& reservation, int samples) {
  BATON_ASSIGN_OR_RETURN(std::vector<SequenceState> states, reservation.Take(samples));
  Remove(reservation);
  return states;
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
