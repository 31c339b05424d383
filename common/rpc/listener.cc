#include "common/rpc/listener.h"

#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/call_counts.h"

namespace baton {
namespace {

// How long to wait for descriptors to be given back.
constexpr int kNoDescriptorsPauseMs = 20;
constexpr int kForever = -1;
// How often to look whether somebody floods the server.
constexpr int kGuardEveryMs = 50;

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
  BATON_ASSIGN_OR_RETURN(listening_, Listen(address, "--listen"));
  return absl::OkStatus();
}

void Listener::Start(Acceptor acceptor, const ListenerLimits& limits) {
  BATON_CHECK(!thread_.joinable());
  acceptor_ = std::move(acceptor);
  limits_ = limits;
  if (limits.max_resets > 0) guard_.emplace(limits.max_resets, limits.max_streams);
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
  listening_.sockets.clear();
  acceptor_.reset();
}

void Listener::Loop() {
  std::vector<pollfd> waiting = {{stop_event_.get(), POLLIN, 0}};
  for (const FileDescriptor& socket : listening_.sockets) waiting.push_back({socket.get(), POLLIN, 0});
  ResetGuard::Clock::time_point next_guard = ResetGuard::Clock::now();
  bool descriptors_left = true;
  while (true) {
    // Whoever knocks meanwhile waits.
    const bool accepts = descriptors_left && !(guard_.has_value() && guard_->floods());
    const int quiet = guard_.has_value() ? kGuardEveryMs : kForever;
    const int patience = descriptors_left ? quiet : kNoDescriptorsPauseMs;
    const int ready = poll(waiting.data(), accepts ? waiting.size() : 1, patience);
    if (ready < 0 && errno != EINTR) return;
    if (ready > 0 && waiting[0].revents != 0) return;
    descriptors_left = true;
    for (size_t i = 1; accepts && ready > 0 && i < waiting.size(); ++i) {
      if (waiting[i].revents != 0) descriptors_left = AcceptAll(waiting[i].fd) && descriptors_left;
    }
    const ResetGuard::Clock::time_point now = ResetGuard::Clock::now();
    if (!guard_.has_value() || now < next_guard) continue;
    next_guard = now + std::chrono::milliseconds(kGuardEveryMs);
    Guard();
  }
}

void Listener::Guard() {
  const bool flooded = guard_->floods();
  const std::vector<std::string> flooding =
      guard_->Judge(CountStartedCalls(), &CountConnectionCalls, ResetGuard::Clock::now());
  // What the flood took is free, but still the process's.
  if (flooded && !guard_->floods()) malloc_trim(0);
  if (flooding.empty()) return;
  Disconnect(flooding);
  if (!log_limit_.Due()) return;
  Log(Severity::kWarning, "reset_flood_ended")
      .With("connections", flooding.size())
      .With("one_peer", flooding.front())
      .With("cause", "it opens calls and resets them faster than they can be cleared up");
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
  if (connection >= limits_.max_connections) {
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
