#include "tests/cli/cli_runner.h"

#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <utility>

#include <gtest/gtest.h>

#include "common/base/full_io.h"
#include "common/base/status_macros.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {
namespace {

std::string ReadAll(int fd) {
  std::string text;
  char bytes[4096];
  ssize_t got;
  while ((got = read(fd, bytes, sizeof bytes)) > 0) text.append(bytes, static_cast<size_t>(got));
  return text;
}

}  // namespace

Pipe::Pipe() { BATON_CHECK(pipe(ends_) == 0); }
Pipe::~Pipe() {
  CloseRead();
  CloseWrite();
}
void Pipe::CloseRead() {
  if (ends_[0] >= 0) close(std::exchange(ends_[0], -1));
}
void Pipe::CloseWrite() {
  if (ends_[1] >= 0) close(std::exchange(ends_[1], -1));
}

TemporaryFile::TemporaryFile(absl::string_view contents) : path_(testing::TempDir() + "baton-cli-XXXXXX") {
  const int fd = mkstemp(path_.data());
  BATON_CHECK(fd >= 0);
  WriteAll(fd, contents);
  close(fd);
}
TemporaryFile::~TemporaryFile() { unlink(path_.c_str()); }

CliResult RunBaton(const std::vector<std::string>& arguments, absl::string_view standard_input) {
  signal(SIGPIPE, SIG_IGN);
  Pipe in;
  Pipe out;
  Pipe err;
  CliResult result;
  std::thread feed([&] {
    WriteAll(in.write_end(), standard_input);  // the program may end without reading all of it
    in.CloseWrite();
  });
  std::thread read_out([&] { result.out = ReadAll(out.read_end()); });
  std::thread read_err([&] { result.err = ReadAll(err.read_end()); });
  {
    Interrupt interrupt;
    Terminal terminal(in.read_end(), out.write_end(), err.write_end());
    result.code = RunCli(arguments, terminal, interrupt);
  }
  in.CloseRead();
  out.CloseWrite();
  err.CloseWrite();
  feed.join();
  read_out.join();
  read_err.join();
  return result;
}

BatonOnTerminal::BatonOnTerminal(std::vector<std::string> arguments, int columns, int rows) {
  signal(SIGPIPE, SIG_IGN);
  setenv("TERM", "xterm", 1);
  unsetenv("NO_COLOR");
  winsize size{};
  size.ws_col = static_cast<unsigned short>(columns);
  size.ws_row = static_cast<unsigned short>(rows);
  BATON_CHECK(openpty(&master_, &slave_, nullptr, nullptr, &size) == 0);
  reader_ = std::thread([this] {
    char bytes[4096];
    ssize_t got;
    while ((got = read(master_, bytes, sizeof bytes)) > 0) {
      absl::MutexLock lock(&mutex_);
      screen_.append(bytes, static_cast<size_t>(got));
    }
  });
  program_ = std::thread([this, arguments = std::move(arguments)] {
    Terminal terminal(slave_, slave_, slave_);
    const int code = RunCli(arguments, terminal, interrupt_);
    // What is still on its way to the reader arrives before the end is announced.
    tcdrain(slave_);
    close(slave_);
    reader_.join();
    absl::MutexLock lock(&mutex_);
    code_ = code;
    ended_ = true;
  });
}

BatonOnTerminal::~BatonOnTerminal() {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended_) {
      ADD_FAILURE() << "still running; on the screen:\n" << screen_;
      std::abort();
    }
  }
  program_.join();
  close(master_);
}

void BatonOnTerminal::Type(absl::string_view keys) { WriteAll(master_, keys); }
void BatonOnTerminal::CtrlC() { interrupt_.Raise(SIGINT); }

bool BatonOnTerminal::WaitFor(absl::string_view text) {
  absl::MutexLock lock(&mutex_);
  size_t found = std::string::npos;
  const auto look = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    found = screen_.find(text.data(), seen_, text.size());
    return found != std::string::npos || ended_;
  };
  mutex_.AwaitWithTimeout(absl::Condition(&look), absl::Minutes(1));
  if (found == std::string::npos) {
    ADD_FAILURE() << "not on the screen: " << text << "\nthe screen:\n" << screen_.substr(seen_);
    return false;
  }
  seen_ = found + text.size();
  return true;
}

int BatonOnTerminal::ExitCode() {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&ended_), absl::Minutes(1));
  return code_;
}

std::string BatonOnTerminal::screen() const {
  absl::MutexLock lock(&mutex_);
  return screen_;
}

}  // namespace baton::cli
