#include "common/base/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>
#include <set>
#include <string>
#include <utility>

namespace baton {
namespace {

constexpr int64_t kBytes = 64 << 10;

SharedMemory MakeMemory() {
  absl::StatusOr<SharedMemory> memory = SharedMemory::Create(kBytes);
  EXPECT_TRUE(memory.ok()) << memory.status();
  return *std::move(memory);
}

TEST(SharedMemoryTest, WhatOneWritesTheOtherReads) {
  SharedMemory memory = MakeMemory();
  absl::StatusOr<SharedMemoryView> view = SharedMemoryView::Open(memory.name());
  ASSERT_TRUE(view.ok()) << view.status();
  ASSERT_TRUE(memory.Allocate().ok());
  std::memcpy(memory.data() + kSharedMemoryDataOffset, "state", 5);
  EXPECT_EQ(view->Range(kSharedMemoryDataOffset, 5), "state");
}

TEST(SharedMemoryTest, AViewOutlivesItsWriter) {
  absl::optional<SharedMemory> memory = MakeMemory();
  absl::StatusOr<SharedMemoryView> view = SharedMemoryView::Open(memory->name());
  ASSERT_TRUE(memory->Allocate().ok());
  std::memcpy(memory->data() + kSharedMemoryDataOffset, "state", 5);
  const SharedMemoryName name = memory->name();
  memory.reset();
  EXPECT_EQ(view->Range(kSharedMemoryDataOffset, 5), "state");
  EXPECT_TRUE(absl::IsUnavailable(SharedMemoryView::Open(name).status())) << "and then it is gone";
}

TEST(SharedMemoryTest, AnotherProcessReadsIt) {
  SharedMemory memory = MakeMemory();
  ASSERT_TRUE(memory.Allocate().ok());
  std::memcpy(memory.data() + kSharedMemoryDataOffset, "state", 5);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    absl::StatusOr<SharedMemoryView> view = SharedMemoryView::Open(memory.name());
    _exit(view.ok() && view->Range(kSharedMemoryDataOffset, 5) == "state" ? 0 : 1);
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(SharedMemoryTest, RangesAreBounded) {
  SharedMemory memory = MakeMemory();
  absl::StatusOr<SharedMemoryView> view = SharedMemoryView::Open(memory.name());
  ASSERT_TRUE(view.ok());
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  EXPECT_TRUE(view->Range(kSharedMemoryDataOffset, kBytes - kSharedMemoryDataOffset).has_value());
  EXPECT_TRUE(view->Range(kBytes, 0).has_value());
  EXPECT_FALSE(view->Range(kSharedMemoryDataOffset, kBytes - kSharedMemoryDataOffset + 1).has_value());
  EXPECT_FALSE(view->Range(0, 1).has_value()) << "the nonce is nobody's data";
  EXPECT_FALSE(view->Range(kBytes + 1, 0).has_value());
  EXPECT_FALSE(view->Range(kMax, 1).has_value());
  EXPECT_FALSE(view->Range(kBytes - 1, kMax).has_value());
  EXPECT_FALSE(view->Range(kSharedMemoryDataOffset, kMax - kSharedMemoryDataOffset + 1).has_value());
}

TEST(SharedMemoryTest, OnlyWhatWasMeantIsOpened) {
  SharedMemory memory = MakeMemory();
  const auto refuses = [&](auto change) {
    SharedMemoryName name = memory.name();
    change(name);
    return absl::IsUnavailable(SharedMemoryView::Open(name).status());
  };
  EXPECT_FALSE(refuses([](SharedMemoryName& name) {}));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.nonce[5] ^= 1; }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.nonce.pop_back(); }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.nonce.clear(); }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.bytes += 4096; }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.bytes = std::numeric_limits<int64_t>::max(); }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.bytes = -1; }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.process = 0; }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.process = -1; }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.process = std::numeric_limits<int64_t>::max(); }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.descriptor = -1; }));
  EXPECT_TRUE(refuses([](SharedMemoryName& name) { name.descriptor = 1 << 20; }));
}

// Pipes block, devices do things, and files can be truncated: none of them is opened.
TEST(SharedMemoryTest, OtherKindsOfFilesAreRefused) {
  SharedMemoryName name = MakeMemory().name();
  name.process = getpid();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const FileDescriptor pipe_read(ends[0]);
  const FileDescriptor pipe_write(ends[1]);
  const FileDescriptor null(open("/dev/null", O_RDWR));
  const FileDescriptor unsealed(memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), name.bytes), 0);
  ASSERT_EQ(pwrite(unsealed.get(), name.nonce.data(), name.nonce.size(), 0), 32);
  for (int descriptor : {pipe_read.get(), pipe_write.get(), null.get(), unsealed.get()}) {
    name.descriptor = descriptor;
    EXPECT_TRUE(absl::IsUnavailable(SharedMemoryView::Open(name).status())) << descriptor;
  }
}

// A peer that would pull pages away under a reader cannot.
TEST(SharedMemoryTest, NobodyCanTruncateIt) {
  SharedMemory memory = MakeMemory();
  absl::StatusOr<SharedMemoryView> view = SharedMemoryView::Open(memory.name());
  ASSERT_TRUE(view.ok());
  EXPECT_NE(ftruncate(memory.name().descriptor, 0), 0);
  const std::string path = "/proc/self/fd/" + std::to_string(memory.name().descriptor);
  EXPECT_NE(truncate(path.c_str(), 4096), 0);
  const absl::optional<absl::string_view> all = view->Range(kSharedMemoryDataOffset, kBytes - kSharedMemoryDataOffset);
  size_t zeros = 0;
  for (char byte : *all) zeros += byte == 0;
  EXPECT_EQ(zeros, all->size());
}

// No room, of either kind, is an error: no signal, and nothing half made.
TEST(SharedMemoryTest, LackOfRoomIsAnError) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    absl::StatusOr<SharedMemory> memory = SharedMemory::Create(kBytes);
    if (!memory.ok()) _exit(2);
    rlimit limit = {kBytes / 2, kBytes / 2};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(3);
    if (!absl::IsUnavailable(SharedMemory::Create(kBytes).status())) _exit(4);
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(5);
    _exit(absl::IsResourceExhausted(memory->Allocate()) ? 0 : 6);
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << WEXITSTATUS(status);
}

// From here on this process, which cannot go back, has no room for files: what a full tmpfs says.
bool RefuseFallocate() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fallocate, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSPC),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {static_cast<unsigned short>(std::size(filter)), filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(SharedMemoryTest, AFullTmpfsIsAnErrorBeforeAnythingIsWritten) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    absl::StatusOr<SharedMemory> memory = SharedMemory::Create(kBytes);
    if (!memory.ok()) _exit(2);
    if (!RefuseFallocate()) _exit(3);
    const absl::Status status = memory->Allocate();
    if (!absl::IsResourceExhausted(status)) _exit(4);
    _exit(std::string(status.message()).find("no room") != std::string::npos ? 0 : 5);
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << WEXITSTATUS(status);
}

TEST(SharedMemoryTest, NothingAppearsUnderDevShm) {
  const auto entries = [] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) names.insert(entry.path());
    return names;
  };
  const std::set<std::string> before = entries();
  SharedMemory memory = MakeMemory();
  ASSERT_TRUE(memory.Allocate().ok());
  for (const std::string& name : entries())
    EXPECT_TRUE(before.count(name) == 1 || name.find("baton") == std::string::npos);
}

}  // namespace
}  // namespace baton
