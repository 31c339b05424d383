// Runs `baton` in the test's process, with its standard streams connected to pipes or to a pseudo terminal.
//
//   CliResult result = RunBaton({"models", "--gateway", address});
//   EXPECT_EQ(result.code, 0);
//
//   BatonOnTerminal baton({"chat", "--gateway", address});     // runs in a thread; what a person would see
//   baton.WaitFor("> ");
//   baton.Type("hello\n");
#pragma once

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "gateway/cli/interrupt.h"

namespace baton::cli {

struct CliResult {
  int code = -1;
  std::string out;
  std::string err;
};

CliResult RunBaton(const std::vector<std::string>& arguments, absl::string_view standard_input = "");

// A pipe whose ends close when it goes away.
class Pipe {
 public:
  Pipe();
  ~Pipe();
  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void CloseRead();
  void CloseWrite();

 private:
  int ends_[2];
};

// A temporary file that is removed when it goes away.
class TemporaryFile {
 public:
  explicit TemporaryFile(absl::string_view contents);
  ~TemporaryFile();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class BatonOnTerminal {
 public:
  explicit BatonOnTerminal(std::vector<std::string> arguments, int columns = 100, int rows = 30);
  // The program must have ended: ask ExitCode first.
  ~BatonOnTerminal();

  void Type(absl::string_view keys);
  void CtrlC();
  // Until `text` was printed after what the last WaitFor found; false when the program ended without, or took more
  // than a minute.
  bool WaitFor(absl::string_view text);
  // Waits for the end.
  int ExitCode();
  // Everything printed so far, escape sequences included.
  std::string screen() const;

 private:
  Interrupt interrupt_;
  int master_ = -1;
  int slave_ = -1;
  std::thread program_;
  std::thread reader_;
  mutable absl::Mutex mutex_;
  std::string screen_ ABSL_GUARDED_BY(mutex_);
  size_t seen_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  int code_ ABSL_GUARDED_BY(mutex_) = -1;
};

}  // namespace baton::cli
