// SIGTERM and SIGINT as something to wait for.
#pragma once

namespace baton {

// First thing in main, before any thread starts: holds the two signals back, ignores SIGPIPE.
void BlockShutdownSignals();
// One of them has arrived, and nobody has waited for it yet: long starts end early.
bool ShutdownSignalPending();
// Returns the signal's number. From then on a second signal ends the process at once.
int WaitForShutdownSignal();

}  // namespace baton
