// What a sequence state at one position consists of: references to its pages, and a copy of its recurrent state. Cheap
// to keep and to copy; a new SequenceState can be made from it any number of times (SequenceState::FromSnapshot).
//
// Each page is charged to the budget as long as anybody holds it: dropping a snapshot frees exactly what only it held.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/state/kv_page.h"
#include "common/state/state_layout.h"

namespace baton {

struct StateSnapshot {
  struct Layer {
    // KV layers: pages first_page ... that hold positions [FirstNeededPosition(position), position).
    int64_t first_page = 0;
    std::vector<PageRef> pages;
    // Recurrent layers: RG-LRU, then conv inputs.
    PageRef recurrent;
  };
  std::shared_ptr<const StateLayout> layout;
  // Tokens consumed.
  int64_t position = 0;
  std::vector<Layer> layers;
};

}  // namespace baton
