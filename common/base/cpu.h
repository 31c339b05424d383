// CPUs: which ones this process may use, and pinning it to some.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

// CPUs in this process's affinity mask.
int UsableCpus();

// "0-3,8" -> {0,1,2,3,8}. INVALID_ARGUMENT with the offending part.
absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text);

// Restricts the whole process (call before threads start). INVALID_ARGUMENT when a CPU does not exist.
absl::Status PinProcess(const std::vector<int>& cpus);

}  // namespace baton
