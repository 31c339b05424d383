// What a worker's memory goes to, worked out before anything large is allocated.
//
//   MemoryPlan plan = {weights, /*weights_shared=*/true, state, workspace, ReadMachineMemory()};
//   Log(Severity::kInfo, "memory").With("plan", plan.ToString());
//   BATON_RETURN_IF_ERROR(plan.Check());
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/base/machine_memory.h"

namespace baton {

struct MemoryPlan {
  // Bytes of packed weights, and whether they are mapped from a file, so that other workers of the machine use the same
  // pages.
  int64_t weights = 0;
  bool weights_shared = false;
  // The most that the states of sequences may take: --memory.
  int64_t state = 0;
  // Everything else: activations and logits of the largest batch, handoffs under way, the program.
  int64_t workspace = 0;
  MachineMemory machine;

  int64_t total() const { return weights + state + workspace; }
  // "weights 2.6 GiB (mapped, shared) + state 5.8 GiB + workspace 0.1 GiB = 8.5 GiB of this machine's 23.4 GiB".
  std::string ToString() const;
  // RESOURCE_EXHAUSTED, with the flags that help, when the machine is too small.
  absl::Status Check() const;
};

}  // namespace baton
