// A program that runs by itself on one core while a benchmark measures what it costs: its CPU time and memory, from
// /proc.
//
//   BATON_ASSIGN_OR_RETURN(auto gateway, MeasuredProcess::Start({"bin/baton-gateway", "--listen", "127.0.0.1:0"}, 0));
//   gateway->ready("listen");                     // of its READY line
//   const double before = gateway->CpuSeconds();
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace baton {

// Pins the calling thread, and all that it starts from now on, to one core.
absl::Status PinToCore(int core);
// Raises this process's limit of open files, and so its children's, as far as it may.
void RaiseOpenFileLimit();
// The directory of this program.
std::string OwnDirectory();

class MeasuredProcess {
 public:
  // Runs `command` pinned to `core` and waits for its line "READY name=value ...". Its log goes to `log_file`.
  static absl::StatusOr<std::unique_ptr<MeasuredProcess>> Start(const std::vector<std::string>& command, int core,
                                                                const std::string& log_file = "/dev/null");
  // Terminates it, and kills it when that takes longer than a few seconds.
  ~MeasuredProcess();
  MeasuredProcess(const MeasuredProcess&) = delete;

  // Empty when its READY line does not say.
  std::string ready(const std::string& name) const;
  // User and system time of all its threads so far.
  double CpuSeconds() const;
  int64_t ResidentBytes() const;
  pid_t pid() const { return pid_; }

 private:
  MeasuredProcess(pid_t pid, int output) : pid_(pid), output_(output) {}

  const pid_t pid_;
  const int output_;
  std::map<std::string, std::string> ready_;
};

}  // namespace baton
