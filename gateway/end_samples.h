// Tells a decode worker that samples of a request that goes on are wanted no more. Nothing depends on its answer: what
// it still sends of them is passed over, and a worker that is gone has ended them anyway.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "baton/worker/v1/worker.pb.h"
#include "gateway/fleet.h"

namespace baton {

// Returns at once.
void EndSamples(const std::shared_ptr<WorkerConnection>& connection, const worker::v1::Reservation& reservation,
                const std::vector<int32_t>& samples);

}  // namespace baton
