#include "common/base/machine_memory.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/mapped_file.h"

namespace baton {
namespace {

// More than any of the files read here has.
constexpr size_t kMaxTextBytes = size_t{1} << 20;
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// Empty when it cannot be read.
std::string ReadText(const std::string& path) { return ReadFileOrPipe(path, kMaxTextBytes).value_or(""); }

// kNoLimit for "max", version 1's huge number, and what can't be read.
int64_t ReadLimit(const std::string& path) {
  int64_t bytes = 0;
  const bool number = absl::SimpleAtoi(ReadText(path), &bytes);
  constexpr int64_t kUnlimited = int64_t{1} << 60;
  return number && bytes > 0 && bytes < kUnlimited ? bytes : kNoLimit;
}

// The lowest limit of `group` and those it is in.
int64_t LowestLimit(const std::string& mount, std::string group, const std::string& file) {
  int64_t limit = kNoLimit;
  while (true) {
    limit = std::min(limit, ReadLimit(absl::StrCat(mount, group, "/", file)));
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return limit;
    group.resize(slash);
  }
}

// A container sees its own group at the mount's root, whatever path its lines name: that root is among those asked.
int64_t ControlGroupLimit(const std::string& root) {
  const std::string mount = absl::StrCat(root, "/sys/fs/cgroup");
  int64_t limit = kNoLimit;
  for (absl::string_view line : absl::StrSplit(ReadText(root + "/proc/self/cgroup"), '\n')) {
    // "0::/user.slice" in version 2, "9:memory:/docker/ab12" in version 1.
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    const std::string group(fields[2] == "/" ? "" : fields[2]);
    if (fields[0] == "0") {
      limit = std::min(limit, LowestLimit(mount, group, "memory.max"));
    } else if (fields[1] == "memory") {
      limit = std::min(limit, LowestLimit(mount + "/memory", group, "memory.limit_in_bytes"));
    }
  }
  return limit;
}

int64_t TotalMemory(const std::string& root) {
  for (absl::string_view line : absl::StrSplit(ReadText(root + "/proc/meminfo"), '\n')) {
    if (!absl::ConsumePrefix(&line, "MemTotal:") || !absl::ConsumeSuffix(&line, " kB")) continue;
    int64_t kibibytes = 0;
    if (absl::SimpleAtoi(line, &kibibytes) && kibibytes > 0) return kibibytes * 1024;
  }
  return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
}

}  // namespace

MachineMemory ReadMachineMemory(const std::string& root) {
  const int64_t total = TotalMemory(root);
  const int64_t limit = ControlGroupLimit(root);
  if (limit < total) return {limit, "control group"};
  return {total, "machine"};
}

}  // namespace baton
