// How much memory this process may ever use: the machine's, or less where a container's limit says so.
//
//   const MachineMemory memory = ReadMachineMemory();
//   if (needed > memory.bytes) ... absl::StrCat("this ", memory.what, " has ", FormatBytes(memory.bytes))
#pragma once

#include <cstdint>
#include <string>

namespace baton {

struct MachineMemory {
  int64_t bytes = 0;
  // "machine", or "control group" whose limit is lower.
  std::string what;
};

// `root`: where /proc and /sys/fs/cgroup are found; for tests.
MachineMemory ReadMachineMemory(const std::string& root = "");

}  // namespace baton
