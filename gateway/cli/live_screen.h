// The whole terminal for a while: frames are drawn over each other on the alternate screen, keys arrive one by one, and
// whatever ends the program, the terminal is as it was before: leaving, Ctrl-C, SIGTERM, a second signal, SIGHUP,
// SIGQUIT, an abort. Ctrl-Z stops the program with the terminal given back; when it goes on, the screen is taken again.
//
//   LiveScreen screen(terminal, session.interrupt());
//   while (true) {
//     BATON_RETURN_IF_ERROR(screen.Draw(lines));
//     const LiveScreen::Event event = screen.Wait(poller.fd());
//     if (event.interrupted || event.closed) break;
//     for (const int key : event.keys) ...
//   }
//
// Without a terminal at standard input there are no keys. One at a time in a process, and not for several threads.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gateway/cli/interrupt.h"
#include "gateway/cli/keys.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

class LiveScreen {
 public:
  // Any of them may have happened; none: the size has changed, or the program was stopped meanwhile.
  struct Event {
    // Ctrl-C or SIGTERM.
    bool interrupted = false;
    // The terminal is gone.
    bool closed = false;
    // The caller's file descriptor is readable.
    bool ready = false;
    std::vector<int> keys;
  };

  // Both must outlive it. Standard output must be a terminal.
  LiveScreen(Terminal& terminal, Interrupt& interrupt);
  ~LiveScreen();
  LiveScreen(const LiveScreen&) = delete;

  // Lines without newlines, each no wider than the screen. What does not fit is not shown.
  absl::Status Draw(const std::vector<std::string>& lines);
  // Until something happens.
  Event Wait(int fd);

 private:
  void Stop();

  Terminal& terminal_;
  Interrupt& interrupt_;
  KeyDecoder decoder_;
};

}  // namespace baton::cli
