#include "common/base/listening_sockets.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"

namespace baton {
namespace {

// Connections that wait to be taken; the system cuts it to net.core.somaxconn.
constexpr int kBacklog = 4096;

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

// An invalid descriptor, with errno, on failure.
FileDescriptor ListenOn(const addrinfo& entry, int port) {
  sockaddr_storage address = {};
  std::memcpy(&address, entry.ai_addr, entry.ai_addrlen);
  if (entry.ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&address)->sin6_port = htons(static_cast<uint16_t>(port));
  } else {
    reinterpret_cast<sockaddr_in*>(&address)->sin_port = htons(static_cast<uint16_t>(port));
  }
  FileDescriptor socket(::socket(entry.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return socket;
  const int on = 1;
  const int off = 0;
  // Not the port of a running process, only one whose last owner has gone.
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (entry.ai_family == AF_INET6) setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), entry.ai_addrlen) != 0 ||
      listen(socket.get(), kBacklog) != 0) {
    const int error = errno;
    socket = FileDescriptor();
    errno = error;
  }
  return socket;
}

int BoundPort(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  const in_port_t port = address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                                                       : reinterpret_cast<const sockaddr_in*>(&address)->sin_port;
  return ntohs(port);
}

}  // namespace

absl::StatusOr<ListeningSockets> Listen(const std::string& address, absl::string_view flag) {
  const auto failed = [&](absl::string_view why) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", why, "; choose another with ", flag, " HOST:PORT"));
  };
  const absl::optional<HostPort> parts = SplitHostPort(address);
  if (!parts.has_value()) return failed("it is not HOST:PORT");
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(parts->host.c_str(), parts->port.c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, FreeAddresses> list(found);
  if (failure != 0) return failed(gai_strerror(failure));
  ListeningSockets listening;
  listening.port = std::atoi(parts->port.c_str());
  int error = EADDRNOTAVAIL;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family != AF_INET && entry->ai_family != AF_INET6) continue;
    FileDescriptor socket = ListenOn(*entry, listening.port);
    if (!socket.is_open()) {
      error = errno;
      // A host may have addresses of a family that this machine does not speak. A port in use is another matter.
      if (error == EADDRINUSE) break;
      continue;
    }
    listening.port = BoundPort(socket.get());
    listening.sockets.push_back(std::move(socket));
  }
  if (error == EADDRINUSE) return failed("the port is in use");
  if (!listening.sockets.empty()) return listening;
  if (error == EADDRNOTAVAIL) return failed("the address is not this host's");
  return failed(std::strerror(error));
}

}  // namespace baton
