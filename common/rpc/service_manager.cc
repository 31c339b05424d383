#include "common/rpc/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "common/observe/log.h"

namespace baton {
namespace {

constexpr char kAddressVariable[] = "NOTIFY_SOCKET";
// Connections are closed and threads joined after the last request.
constexpr absl::Duration kEndMargin = absl::Seconds(60);

}  // namespace

std::string ServingNotice() { return "READY=1"; }

std::string DrainingNotice(absl::Duration longest) {
  return absl::StrCat("STOPPING=1\nEXTEND_TIMEOUT_USEC=", absl::ToInt64Microseconds(longest + kEndMargin));
}

absl::Status SendNotice(const std::string& address, absl::string_view notice) {
  sockaddr_un socket_address = {};
  socket_address.sun_family = AF_UNIX;
  if (address.size() < 2 || (address[0] != '/' && address[0] != '@')) {
    return absl::InvalidArgumentError(absl::StrCat("not the address of a Unix socket: '", address, "'"));
  }
  if (address.size() >= sizeof(socket_address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("too long for the address of a Unix socket: ", address));
  }
  std::memcpy(socket_address.sun_path, address.data(), address.size());
  if (address[0] == '@') socket_address.sun_path[0] = '\0';
  const FileDescriptor sender(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!sender.is_open()) return absl::ErrnoToStatus(errno, "no Unix socket");
  const socklen_t size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
  if (sendto(sender.get(), notice.data(), notice.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&socket_address),
             size) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("nothing can be sent to ", address));
  }
  return absl::OkStatus();
}

void TellServiceManager(absl::string_view notice) {
  const char* address = std::getenv(kAddressVariable);
  if (address == nullptr) return;
  if (absl::Status status = SendNotice(address, notice); !status.ok()) {
    Log(Severity::kWarning, "service_manager_not_told").With("error", status.ToString());
  }
}

}  // namespace baton
