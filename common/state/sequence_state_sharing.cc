// Forks and snapshots: how states share pages, and what each has reserved once they do.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/state/sequence_state.h"

namespace baton {
namespace {

using Kind = LayerStateSpec::Kind;

absl::Status CheckRoom(int64_t max_tokens, int64_t position) {
  if (max_tokens >= std::max<int64_t>(position, 1)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a state at position ", position, " does not fit a sequence of ", max_tokens, " tokens"));
}

}  // namespace

absl::StatusOr<SequenceState> SequenceState::FromSnapshot(const StateSnapshot& snapshot, MemoryBudget& budget,
                                                          int64_t max_tokens) {
  BATON_RETURN_IF_ERROR(CheckRoom(max_tokens, snapshot.position));
  SequenceState state = MakeEmpty(snapshot.layout, max_tokens, snapshot.position);
  BATON_ASSIGN_OR_RETURN(MemoryReservation reservation, budget.Reserve(state.ReservedKvBytes()));
  BATON_RETURN_IF_ERROR(reservation.Grow(state.RecurrentBytes()));
  BATON_RETURN_IF_ERROR(state.MakeTables(std::move(reservation)));
  state.AdoptPages(snapshot);
  for (size_t i = 0; i < state.layers_.size(); ++i) {
    const PageRef& from = snapshot.layers[i].recurrent;
    if (!from) continue;
    BATON_ASSIGN_OR_RETURN(PageRef page, state.TakeRecurrentPage(from.bytes()));
    std::memcpy(page.data(), from.data(), from.bytes());
    state.layers_[i].recurrent = std::move(page);
  }
  return state;
}

absl::StatusOr<SequenceState> SequenceState::Fork(MemoryBudget& budget, int64_t max_tokens) {
  MemoryReservation none;
  return Fork(budget, none, max_tokens);
}

absl::StatusOr<SequenceState> SequenceState::Fork(MemoryBudget& budget, MemoryReservation& room, int64_t max_tokens) {
  BATON_RETURN_IF_ERROR(CheckRoom(max_tokens, position_));
  SequenceState fork = MakeEmpty(layout_, max_tokens, position_);
  BATON_ASSIGN_OR_RETURN(MemoryReservation reservation, budget.Reserve(0));
  BATON_RETURN_IF_ERROR(reservation.Grow(fork.ReservedKvBytes(), room));
  BATON_RETURN_IF_ERROR(fork.MakeTables(std::move(reservation)));
  BATON_ASSIGN_OR_RETURN(StateSnapshot snapshot, Share(/*full_pages_only=*/false, room));
  fork.AdoptPages(snapshot);
  for (size_t i = 0; i < layers_.size(); ++i) fork.layers_[i].recurrent = std::move(snapshot.layers[i].recurrent);
  return fork;
}

absl::StatusOr<StateSnapshot> SequenceState::Snapshot() {
  MemoryReservation none;
  return Share(/*full_pages_only=*/false, none);
}

absl::StatusOr<StateSnapshot> SequenceState::ShareFullPages() {
  MemoryReservation none;
  return Share(/*full_pages_only=*/true, none);
}

absl::StatusOr<StateSnapshot> SequenceState::Share(bool full_pages_only, MemoryReservation& room) {
  const int64_t first_own = position_ / layout_->page_tokens;
  const int64_t end = full_pages_only ? first_own * layout_->page_tokens : position_;
  const bool shares_last = end % layout_->page_tokens != 0;
  const auto becomes_shared = [&](const Slot& slot) {
    return slot.index >= 0 && (slot.index < first_own || (slot.index == first_own && shares_last));
  };

  // What each layer must have reserved once its pages are shared.
  std::vector<int64_t> reserved(layers_.size(), 0);
  int64_t more = full_pages_only ? 0 : RecurrentBytes();
  int64_t less = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (layer.kind == Kind::kRecurrent) continue;
    const auto stays_own = [&](const Slot& slot) { return slot.owned && !becomes_shared(slot); };
    const int64_t own = std::count_if(layer.slots.begin(), layer.slots.end(), stays_own);
    const int64_t needed = std::min<int64_t>(layer.slots.size(), layer.total_pages - first_own);
    reserved[i] = std::max<int64_t>(0, needed - own);
    const int64_t change = (reserved[i] - layer.reserved) * layer.page_bytes;
    (change > 0 ? more : less) += change;
  }
  BATON_RETURN_IF_ERROR(reservation_.Grow(more, room));

  StateSnapshot snapshot;
  snapshot.layout = layout_;
  snapshot.position = end;
  snapshot.layers.resize(layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const PageRef& from = layers_[i].recurrent;
    if (!from || full_pages_only) continue;
    absl::StatusOr<PageRef> copy = TakeRecurrentPage(from.bytes());
    if (!copy.ok()) {
      for (const StateSnapshot::Layer& layer : snapshot.layers) more -= layer.recurrent ? layer.recurrent.bytes() : 0;
      reservation_.Shrink(more);
      return copy.status();
    }
    std::memcpy(copy->data(), from.data(), from.bytes());
    snapshot.layers[i].recurrent = *std::move(copy);
  }
  reservation_.Shrink(-less);

  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    if (layer.kind == Kind::kRecurrent) continue;
    layer.reserved = reserved[i];
    layer.first_own = first_own;
    const int64_t first_needed = FirstNeededPosition(static_cast<int>(i), position_);
    StateSnapshot::Layer& shared = snapshot.layers[i];
    shared.first_page = first_needed / layout_->page_tokens;
    for (int64_t page = shared.first_page; page * layout_->page_tokens < end; ++page) {
      if (first_needed == position_) break;  // a window of one key needs nothing of the past
      Slot& slot = layer.slots[page % layer.slots.size()];
      BATON_CHECK(slot.index == page);
      shared.pages.push_back(slot.page);
    }
    for (Slot& slot : layer.slots) {
      if (!becomes_shared(slot)) continue;
      layer.owned -= slot.owned ? 1 : 0;
      slot.owned = false;
      slot.copy_on_write = slot.index == first_own;
    }
  }
  if (!full_pages_only) prepared_end_ = position_;
  return snapshot;
}

void SequenceState::ReclaimPages() {
  for (Layer& layer : layers_) {
    if (layer.kind == Kind::kRecurrent) continue;
    const auto slots = static_cast<int64_t>(layer.slots.size());
    int64_t first_own = layer.first_own;
    // From the newest shared page back to the first that somebody else still holds.
    for (int64_t page = layer.first_own; page >= 0; --page) {
      Slot& slot = layer.slots[page % slots];
      if (slot.index == page && !slot.owned) {
        if (slot.page.shared()) break;
        slot.owned = true;
        slot.copy_on_write = false;
        ++layer.owned;
      } else if (page < layer.first_own) {
        break;
      }
      first_own = page;
    }
    layer.first_own = first_own;
    const int64_t needed = std::min(slots, layer.total_pages - first_own) - layer.owned;
    if (needed >= layer.reserved) continue;
    reservation_.Shrink((layer.reserved - needed) * layer.page_bytes);
    layer.reserved = needed;
  }
}

void SequenceState::AdoptPages(const StateSnapshot& snapshot) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const StateSnapshot::Layer& from = snapshot.layers[i];
    for (size_t k = 0; k < from.pages.size(); ++k) {
      const int64_t page = from.first_page + static_cast<int64_t>(k);
      Slot& slot = layer.slots[page % layer.slots.size()];
      slot.page = from.pages[k];
      slot.index = page;
      slot.copy_on_write = page == layer.first_own;  // partly filled
    }
  }
  prepared_end_ = position_;
}

PageRef SequenceState::KvPage(int layer, int64_t page) const {
  const Layer& kv = layers_[layer];
  BATON_CHECK(kv.kind != Kind::kRecurrent);
  if (page < 0 || page >= kv.total_pages) return PageRef();
  const Slot& slot = kv.slots[page % kv.slots.size()];
  return slot.index == page ? slot.page : PageRef();
}

int64_t SequenceState::RecurrentBytes() const {
  int64_t bytes = 0;
  for (const LayerStateSpec& spec : layout_->layers) {
    if (spec.kind == Kind::kRecurrent) bytes += layout_->RecurrentBytes(spec);
  }
  return bytes;
}

}  // namespace baton
