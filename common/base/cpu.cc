#include "common/base/cpu.h"

#include <sched.h>

#include <algorithm>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace baton {

int UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text) {
  std::set<int> cpus;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> range = absl::StrSplit(part, absl::MaxSplits('-', 1));
    const bool is_range = part.find('-') != absl::string_view::npos;
    int first = 0;
    int last = 0;
    const bool ok =
        absl::SimpleAtoi(range.first, &first) && absl::SimpleAtoi(is_range ? range.second : range.first, &last);
    if (!ok || first < 0 || last < first || last >= CPU_SETSIZE) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is not a CPU or a range of CPUs; write for example 0-3,8"));
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.insert(cpu);
  }
  return std::vector<int>(cpus.begin(), cpus.end());
}

absl::Status PinProcess(const std::vector<int>& cpus) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof(allowed), &allowed);
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &allowed)) {
      return absl::InvalidArgumentError(absl::StrCat("CPU ", cpu, " is not available to this process"));
    }
    CPU_SET(cpu, &set);
  }
  if (CPU_COUNT(&set) == 0) return absl::InvalidArgumentError("the list of CPUs is empty");
  if (sched_setaffinity(0, sizeof(set), &set) != 0) {
    return absl::InternalError("the system refused to set the CPU affinity");
  }
  return absl::OkStatus();
}

}  // namespace baton
