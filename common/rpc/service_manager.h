// Tells the service manager that started this process, systemd, how it stands: `systemctl start` returns when requests
// are served and not before, so that a script may restart one worker after another, and a drain takes as long as
// --grace allows whatever the unit's TimeoutStopSec is. Nothing happens where nobody asks for it ($NOTIFY_SOCKET is not
// set).
//
//   TellServiceManager(ServingNotice());
//   WaitForShutdownSignal();
//   TellServiceManager(DrainingNotice(grace));
//
// The protocol: a datagram of NAME=VALUE lines, sd_notify(3).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace baton {

std::string ServingNotice();
// `longest`: until the process has ended, unless somebody kills it.
std::string DrainingNotice(absl::Duration longest);

// To the socket at `address`: a path, or a name without a file that begins with "@".
absl::Status SendNotice(const std::string& address, absl::string_view notice);
// To $NOTIFY_SOCKET. What fails is logged: it is no reason to stop serving.
void TellServiceManager(absl::string_view notice);

}  // namespace baton
