#include "common/rpc/memory_plan.h"

#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"

namespace baton {

std::string MemoryPlan::ToString() const {
  return absl::StrCat("weights ", FormatBytes(weights), weights_shared ? " (mapped, shared)" : "", " + state ",
                      FormatBytes(state), " + workspace ", FormatBytes(workspace), " = ", FormatBytes(total()),
                      " of this ", machine.what, "'s ", FormatBytes(machine.bytes));
}

absl::Status MemoryPlan::Check() const {
  if (total() <= machine.bytes) return absl::OkStatus();
  // Half of what is left: the other workers of a machine and the system want something too.
  const int64_t left = machine.bytes - weights - workspace;
  const std::string advice =
      left > 0 ? absl::StrCat("give less state, such as --memory ", left / 2 >> 20, "MiB")
               : std::string("choose a smaller precision with --weights, such as int8 or int4, or another machine");
  return absl::ResourceExhaustedError(absl::StrCat("not enough memory: ", ToString(), "; ", advice));
}

}  // namespace baton
