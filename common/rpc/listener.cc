#include "common/rpc/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

// How long to wait for descriptors to be given back.
constexpr int kNoDescriptorsPauseMs = 20;
constexpr int kForever = -1;

// Connections that wait to be taken; the system cuts it to net.core.somaxconn.
constexpr int kBacklog = 4096;

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

absl::Status CannotListen(const std::string& address, absl::string_view why) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address, ": ", why, "; choose another with --listen HOST:PORT"));
}

// An invalid descriptor, with errno, on failure.
FileDescriptor Listen(const addrinfo& entry, int port) {
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

int MostConnections() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) getrlimit(RLIMIT_NOFILE, &limit);
  }
  const int64_t files = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, 1 << 30));
  return static_cast<int>(files - std::min<int64_t>(files / 4, 256));
}

absl::Status Listener::Bind(const std::string& address) {
  const absl::optional<HostPort> parts = SplitHostPort(address);
  if (!parts.has_value()) return CannotListen(address, "it is not HOST:PORT");
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(parts->host.c_str(), parts->port.c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, FreeAddresses> list(found);
  if (failure != 0) return CannotListen(address, gai_strerror(failure));
  port_ = std::atoi(parts->port.c_str());
  int error = EADDRNOTAVAIL;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family != AF_INET && entry->ai_family != AF_INET6) continue;
    FileDescriptor socket = Listen(*entry, port_);
    if (!socket.is_open()) {
      error = errno;
      // A host may have addresses of a family that this machine does not speak. A port in use is another matter.
      if (error == EADDRINUSE) break;
      continue;
    }
    port_ = BoundPort(socket.get());
    sockets_.push_back(std::move(socket));
  }
  if (!sockets_.empty() && error != EADDRINUSE) return absl::OkStatus();
  sockets_.clear();
  if (error == EADDRINUSE) return CannotListen(address, "the port is in use");
  if (error == EADDRNOTAVAIL) return CannotListen(address, "the address is not this host's");
  return CannotListen(address, std::strerror(error));
}

void Listener::Start(Acceptor acceptor, int max_connections) {
  BATON_CHECK(!thread_.joinable());
  acceptor_ = std::move(acceptor);
  max_connections_ = max_connections;
  stop_event_ = FileDescriptor(eventfd(0, EFD_CLOEXEC));
  BATON_CHECK(stop_event_.is_open());
  thread_ = std::thread([this] { Loop(); });
}

void Listener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    while (write(stop_event_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    thread_.join();
  }
  sockets_.clear();
  acceptor_.reset();
}

void Listener::Loop() {
  std::vector<pollfd> waiting = {{stop_event_.get(), POLLIN, 0}};
  for (const FileDescriptor& socket : sockets_) waiting.push_back({socket.get(), POLLIN, 0});
  while (true) {
    if (poll(waiting.data(), waiting.size(), kForever) < 0 && errno != EINTR) return;
    if (waiting[0].revents != 0) return;
    bool descriptors_left = true;
    for (size_t i = 1; i < waiting.size(); ++i) {
      if (waiting[i].revents != 0) descriptors_left = AcceptAll(waiting[i].fd) && descriptors_left;
    }
    if (descriptors_left) continue;
    pollfd stop = waiting[0];
    if (poll(&stop, 1, kNoDescriptorsPauseMs) > 0) return;
  }
}

bool Listener::AcceptAll(int socket) {
  while (true) {
    const int connection = accept4(socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= 0) {
      HandOver(socket, connection);
      continue;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) return false;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
    // Anything else is about the connection that was to be taken, which has gone meanwhile (accept(2)).
  }
}

void Listener::HandOver(int socket, int connection) {
  // The system gives out the lowest number that is free: so many files are open at least.
  if (connection >= max_connections_) {
    close(connection);
    return;
  }
  const int on = 1;
  setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
  parameters.listener_fd = socket;
  parameters.fd = connection;
  acceptor_->HandleNewConnection(&parameters);
}

}  // namespace baton
