#include "common/base/machine_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/temporary_directory.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

class MachineMemoryTest : public testing::Test {
 protected:
  void SetUp() override { Write("/proc/meminfo", "MemTotal:       24000000 kB\nMemFree:          100000 kB\n"); }

  void Write(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  const TemporaryDirectory directory_;
  const std::string& root_ = directory_.path();
};

constexpr int64_t kTotal = int64_t{24000000} * 1024;

TEST_F(MachineMemoryTest, WithoutLimitsItIsTheMachines) {
  EXPECT_EQ(ReadMachineMemory(root_).bytes, kTotal);
  EXPECT_EQ(ReadMachineMemory(root_).what, "machine");
  Write("/proc/self/cgroup", "0::/user.slice/session-1.scope\n");
  Write("/sys/fs/cgroup/user.slice/session-1.scope/memory.max", "max\n");
  EXPECT_EQ(ReadMachineMemory(root_).bytes, kTotal);
}

TEST_F(MachineMemoryTest, TheLowestLimitOfTheGroupsAroundBinds) {
  Write("/proc/self/cgroup", "0::/a/b/c\n");
  Write("/sys/fs/cgroup/a/memory.max", "3000000000\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "2000000000\n");
  Write("/sys/fs/cgroup/a/b/c/memory.max", "max\n");
  EXPECT_EQ(ReadMachineMemory(root_).bytes, 2000000000);
  EXPECT_EQ(ReadMachineMemory(root_).what, "control group");
}

TEST_F(MachineMemoryTest, AContainersOwnGroupIsTheRoot) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "1500000000\n");
  EXPECT_EQ(ReadMachineMemory(root_).bytes, 1500000000);
}

TEST_F(MachineMemoryTest, VersionOneCounts) {
  Write("/proc/self/cgroup", "11:cpu,cpuacct:/docker/ab\n9:memory:/docker/ab\n1:name=systemd:/docker/ab\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(ReadMachineMemory(root_).bytes, kTotal);
  Write("/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "1000000000\n");
  EXPECT_EQ(ReadMachineMemory(root_).bytes, 1000000000);
}

TEST_F(MachineMemoryTest, NonsenseIsNoLimit) {
  Write("/proc/self/cgroup", "0\n::::\n0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "-5 lots\n");
  EXPECT_EQ(ReadMachineMemory(root_).bytes, kTotal);
  Write("/proc/meminfo", "MemTotal: many kB\n");
  EXPECT_GT(ReadMachineMemory(root_).bytes, 0) << "the system is asked instead";
}

TEST(MachineMemoryHereTest, ThisMachineHasSome) { EXPECT_GT(ReadMachineMemory().bytes, int64_t{64} << 20); }

}  // namespace
}  // namespace baton
