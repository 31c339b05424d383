// What a request needs of the fleet, and the state memory it takes of a decode worker.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "baton/worker/v1/worker.pb.h"
#include "gateway/fleet.h"

namespace baton {

struct Demand {
  // Raw bytes, and the model's name for messages.
  std::string fingerprint;
  std::string model;
  // Tokens to prefill.
  int64_t prompt_tokens = 0;
  // Short hashes of the prompt's whole blocks, as far as it may go on from the cache. Null: it may not.
  std::shared_ptr<const std::vector<uint64_t>> prefixes;
  // Tokens of state to reserve at a decode worker; 0: none is needed.
  int64_t state_tokens = 0;
  // Samples of the prompt, which share its pages.
  int samples = 1;
  // A decode worker may compute the prompt itself.
  bool may_be_local = false;
  // Tokens of the prompt that a kept session has consumed; 0: there is none. The decode worker that has its state in
  // memory; null: none has.
  int64_t session_tokens = 0;
  std::shared_ptr<WorkerConnection> session_worker;
  // It goes on with a stream that has begun: what is left to compute of it may be more than of a prompt.
  bool resumes = false;
};

// What of the demand is reserved before its sequences begin: all of it, or the first reserve_output tokens of output.
Demand ReservedFirst(const worker::v1::StateBytes& bytes, const Demand& demand);
// State bytes of a sequence of `tokens` tokens on a worker. Saturates.
int64_t StateBytesFor(const worker::v1::StateBytes& bytes, int64_t tokens);
// Of all samples of a request; a little more than they take.
int64_t StateBytesFor(const worker::v1::StateBytes& bytes, const Demand& demand);

}  // namespace baton
