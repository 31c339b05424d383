#include "bench/measured_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace baton {
namespace {

constexpr int kStartMilliseconds = 20000;
constexpr auto kStopPatience = std::chrono::seconds(5);

absl::Status SystemError(const std::string& what) {
  return absl::InternalError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// The first line that begins with READY; empty when there is none in time.
std::string ReadyLine(int output) {
  std::string text;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::milliseconds(kStartMilliseconds);
  while (std::chrono::steady_clock::now() < give_up) {
    pollfd waiting = {output, POLLIN, 0};
    if (poll(&waiting, 1, 100) <= 0) continue;
    char buffer[4096];
    const ssize_t got = read(output, buffer, sizeof(buffer));
    if (got <= 0) return "";
    text.append(buffer, static_cast<size_t>(got));
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      const bool whole = line.data() + line.size() != text.data() + text.size();
      if (whole && absl::StartsWith(line, "READY ")) return std::string(line);
    }
  }
  return "";
}

}  // namespace

absl::Status PinToCore(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(core), &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) return SystemError(absl::StrCat("cannot run on core ", core));
  return absl::OkStatus();
}

void RaiseOpenFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::string OwnDirectory() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0) return ".";
  const std::string whole(path, static_cast<size_t>(length));
  return whole.substr(0, whole.rfind('/'));
}

absl::StatusOr<std::unique_ptr<MeasuredProcess>> MeasuredProcess::Start(const std::vector<std::string>& command,
                                                                        int core, const std::string& log_file) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return SystemError("pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);

  // A child begins on the cores of the thread that starts it.
  cpu_set_t mine;
  sched_getaffinity(0, sizeof(mine), &mine);
  pid_t pid = -1;
  absl::Status status = PinToCore(core);
  if (status.ok()) {
    const int error = posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
    if (error != 0) status = absl::NotFoundError(absl::StrCat("cannot run ", command[0], ": ", std::strerror(error)));
  }
  sched_setaffinity(0, sizeof(mine), &mine);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (!status.ok()) {
    close(ends[0]);
    return status;
  }
  std::unique_ptr<MeasuredProcess> process(new MeasuredProcess(pid, ends[0]));
  const std::string line = ReadyLine(ends[0]);
  if (line.empty()) {
    return absl::UnavailableError(absl::StrCat("it did not start; try it by hand: ", absl::StrJoin(command, " ")));
  }
  for (absl::string_view field : absl::StrSplit(line, ' ')) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(field, absl::MaxSplits('=', 1));
    process->ready_[std::string(parts.first)] = std::string(parts.second);
  }
  return process;
}

MeasuredProcess::~MeasuredProcess() {
  close(output_);
  kill(pid_, SIGTERM);
  const auto give_up = std::chrono::steady_clock::now() + kStopPatience;
  while (waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > give_up) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

std::string MeasuredProcess::ready(const std::string& name) const {
  const auto found = ready_.find(name);
  return found == ready_.end() ? "" : found->second;
}

double MeasuredProcess::CpuSeconds() const {
  // In nanoseconds, where /proc/PID/stat counts in hundredths of a second.
  clockid_t clock;
  timespec time;
  if (clock_getcpuclockid(pid_, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

int64_t MeasuredProcess::ResidentBytes() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/statm"));
  int64_t total = 0;
  int64_t resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace baton
