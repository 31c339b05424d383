// Tells a decode worker that samples of a request are to end. Nothing depends on its answer: a worker that is gone has
// ended them anyway.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "baton/worker/v1/worker.pb.h"
#include "gateway/fleet.h"

namespace baton {

enum class SampleEnding {
  // They are wanted no more: what the worker still sends of them is passed over.
  kDrop,
  // It tells their end, after all their tokens, and keeps their state if it is to be kept.
  kComplete,
};

// Returns at once.
void EndSamples(const std::shared_ptr<WorkerConnection>& connection, const worker::v1::Reservation& reservation,
                const std::vector<int32_t>& samples, SampleEnding ending);

}  // namespace baton
