#include "gateway/cli/live_screen.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "common/base/full_io.h"
#include "common/base/status_macros.h"

namespace baton::cli {
namespace {

// Alternate screen, no cursor.
constexpr char kEnter[] = "\033[?1049h\033[?25l";
constexpr char kLeave[] = "\033[?7h\033[?25h\033[?1049l";
// Should a line be too long after all, it must not push the others down.
constexpr char kNoWrap[] = "\033[?7l";
constexpr char kWrap[] = "\033[?7h";

constexpr std::array<int, 3> kNoticed = {SIGWINCH, SIGTSTP, SIGCONT};
constexpr std::array<int, 3> kFatal = {SIGHUP, SIGQUIT, SIGABRT};

// What signal handlers need. Written while no handler is installed; handlers only read, but for `noticed`.
struct Taken {
  int in = -1;
  int out = -1;
  bool has_keys = false;
  termios before = {};
  termios during = {};
  // eventfd.
  int event = -1;
  std::atomic<bool> stop_asked{false};
  std::atomic<bool> continued{false};
  std::array<struct sigaction, kNoticed.size()> noticed_before = {};
  std::array<struct sigaction, kFatal.size()> fatal_before = {};
};
Taken taken;
std::atomic<bool> is_taken{false};

// Async-signal-safe, as is what is called here.
void GiveBack() {
  if (taken.has_keys) tcsetattr(taken.in, TCSANOW, &taken.before);
  [[maybe_unused]] const int written = WriteAll(taken.out, absl::string_view(kLeave, sizeof kLeave - 1));
}

void Take() {
  if (taken.has_keys) tcsetattr(taken.in, TCSANOW, &taken.during);
  [[maybe_unused]] const int written = WriteAll(taken.out, absl::string_view(kEnter, sizeof kEnter - 1));
}

void OnNoticed(int signal_number) {
  const int error = errno;
  if (signal_number == SIGTSTP) taken.stop_asked.store(true);
  if (signal_number == SIGCONT) taken.continued.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(taken.event, &one, sizeof one);
  errno = error;
}

// Installed for one signal: then its default action follows.
void OnFatal(int signal_number) {
  GiveBack();
  raise(signal_number);
}

void Install() {
  struct sigaction action = {};
  sigemptyset(&action.sa_mask);
  action.sa_handler = OnNoticed;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kNoticed.size(); ++i) {
    sigaction(kNoticed[i], nullptr, &taken.noticed_before[i]);
    // Who started this may not want it stopped.
    if (kNoticed[i] == SIGTSTP && taken.noticed_before[i].sa_handler == SIG_IGN) continue;
    sigaction(kNoticed[i], &action, nullptr);
  }
  action.sa_handler = OnFatal;
  action.sa_flags = SA_RESETHAND | SA_NODEFER;
  for (size_t i = 0; i < kFatal.size(); ++i) {
    sigaction(kFatal[i], nullptr, &taken.fatal_before[i]);
    // nohup.
    if (taken.fatal_before[i].sa_handler == SIG_IGN) continue;
    sigaction(kFatal[i], &action, nullptr);
  }
}

void Uninstall() {
  for (size_t i = 0; i < kNoticed.size(); ++i) sigaction(kNoticed[i], &taken.noticed_before[i], nullptr);
  for (size_t i = 0; i < kFatal.size(); ++i) sigaction(kFatal[i], &taken.fatal_before[i], nullptr);
}

}  // namespace

LiveScreen::LiveScreen(Terminal& terminal, Interrupt& interrupt) : terminal_(terminal), interrupt_(interrupt) {
  BATON_CHECK(!is_taken.exchange(true));
  taken.in = terminal.in();
  taken.out = terminal.out();
  taken.has_keys = terminal.in_is_terminal() && tcgetattr(taken.in, &taken.before) == 0;
  if (taken.has_keys) {
    taken.during = taken.before;
    // Signal keys stay what they are.
    taken.during.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    taken.during.c_cc[VMIN] = 1;
    taken.during.c_cc[VTIME] = 0;
  }
  taken.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  BATON_CHECK(taken.event >= 0);
  taken.stop_asked.store(false);
  taken.continued.store(false);
  Install();
  interrupt_.SetLastRites(GiveBack);
  Take();
}

LiveScreen::~LiveScreen() {
  interrupt_.SetLastRites(nullptr);
  GiveBack();
  Uninstall();
  close(taken.event);
  is_taken.store(false);
}

absl::Status LiveScreen::Draw(const std::vector<std::string>& lines) {
  const size_t rows = std::min(lines.size(), static_cast<size_t>(std::max(terminal_.rows(), 1)));
  // A row is cleared before it is written: after a line as wide as the screen, the cursor is on its last character.
  std::string frame = absl::StrCat(kNoWrap, "\033[H");
  for (size_t i = 0; i < rows; ++i) absl::StrAppend(&frame, i == 0 ? "" : "\r\n", "\033[2K", lines[i]);
  if (rows < static_cast<size_t>(terminal_.rows())) absl::StrAppend(&frame, "\r\n\033[J");
  absl::StrAppend(&frame, kWrap);
  return terminal_.Out(frame);
}

void LiveScreen::Stop() {
  GiveBack();
  Uninstall();
  // Of this thread, so that it takes effect before the next line; the signal stops the whole process.
  raise(SIGTSTP);
  Install();
  Take();
}

LiveScreen::Event LiveScreen::Wait(int fd) {
  Event event;
  pollfd waiting[] = {{taken.event, POLLIN, 0},
                      {interrupt_.fd(), POLLIN, 0},
                      {fd, POLLIN, 0},
                      {taken.has_keys ? taken.in : -1, POLLIN, 0}};
  if (poll(waiting, std::size(waiting), -1) < 0) return event;
  event.interrupted = waiting[1].revents != 0;
  event.ready = waiting[2].revents != 0;
  if (waiting[0].revents != 0) {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t drained = read(taken.event, &count, sizeof count);
    if (taken.stop_asked.exchange(false)) Stop();
    // Who stopped it without asking has left the terminal in whatever state.
    if (taken.continued.exchange(false)) Take();
  }
  if (waiting[3].revents != 0) {
    char bytes[256];
    const ssize_t got = read(taken.in, bytes, sizeof bytes);
    if (got > 0) event.keys = decoder_.Decode(absl::string_view(bytes, static_cast<size_t>(got)));
    event.closed = got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN);
  }
  return event;
}

}  // namespace baton::cli
