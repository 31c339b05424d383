#include <netdb.h>
#include <poll.h>
#include <prometheus/text_serializer.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"
#include "common/observe/metrics.h"

namespace baton {
namespace {

constexpr int kBacklog = 16;
constexpr size_t kMaxRequestBytes = 8192;
constexpr timeval kPeerTimeout = {5, 0};

// Listening on host:port, or -1.
int Listen(const std::string& host, const std::string& port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return -1;
  int listener = -1;
  for (const addrinfo* entry = found; entry != nullptr && listener < 0; entry = entry->ai_next) {
    const int candidate = socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol);
    if (candidate < 0) continue;
    const int on = 1;
    setsockopt(candidate, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(candidate, entry->ai_addr, entry->ai_addrlen) == 0 && listen(candidate, kBacklog) == 0) {
      listener = candidate;
    } else {
      close(candidate);
    }
  }
  freeaddrinfo(found);
  return listener;
}

int BoundPort(int listener) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  char port[NI_MAXSERV] = "0";
  if (getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<sockaddr*>(&address), size, nullptr, 0, port, sizeof(port), NI_NUMERICSERV) != 0) {
    return 0;
  }
  return std::atoi(port);
}

// The request's head, up to the empty line; empty when the peer does not send one.
std::string ReadHead(int connection) {
  std::string head;
  char buffer[1024];
  while (head.size() < kMaxRequestBytes) {
    const ssize_t received = recv(connection, buffer, sizeof(buffer), 0);
    if (received <= 0) return "";
    head.append(buffer, static_cast<size_t>(received));
    if (absl::StrContains(head, "\r\n\r\n")) return head;
  }
  return "";
}

void SendAll(int connection, absl::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = send(connection, data.data(), data.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    data.remove_prefix(static_cast<size_t>(sent));
  }
}

}  // namespace

MetricsServer::MetricsServer(const Metrics* metrics) : metrics_(metrics) {}

MetricsServer::~MetricsServer() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    BATON_CHECK(write(stop_event_, &one, sizeof(one)) == sizeof(one));
    thread_.join();
  }
  if (listener_ >= 0) close(listener_);
  if (stop_event_ >= 0) close(stop_event_);
}

absl::Status MetricsServer::Start(const std::string& address) {
  BATON_CHECK(listener_ < 0);
  const absl::optional<HostPort> parts = SplitHostPort(address);
  if (!parts.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("the metrics address ", address, " is not HOST:PORT"));
  }
  listener_ = Listen(parts->host, parts->port);
  if (listener_ < 0) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address,
                                               ": the port is in use or the address is not this host's; ",
                                               "choose another with --metrics HOST:PORT"));
  }
  port_ = BoundPort(listener_);
  stop_event_ = eventfd(0, EFD_CLOEXEC);
  if (stop_event_ < 0) return absl::UnavailableError(absl::StrCat("cannot serve metrics: ", std::strerror(errno)));
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void MetricsServer::Loop() {
  while (true) {
    pollfd events[2] = {{listener_, POLLIN, 0}, {stop_event_, POLLIN, 0}};
    if (poll(events, 2, -1) < 0) continue;  // Interrupted.
    if (events[1].revents != 0) return;
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) continue;
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &kPeerTimeout, sizeof(kPeerTimeout));
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &kPeerTimeout, sizeof(kPeerTimeout));
    Answer(connection);
    close(connection);
  }
}

void MetricsServer::Answer(int connection) const {
  const std::string head = ReadHead(connection);
  if (head.empty()) return;
  std::string status = "200 OK";
  std::string body;
  if (!absl::StartsWith(head, "GET ")) {
    status = "405 Method Not Allowed";
  } else if (!absl::StartsWith(head, "GET /metrics ") && !absl::StartsWith(head, "GET /metrics?")) {
    status = "404 Not Found";
    body = "metrics are at /metrics\n";
  } else {
    body = prometheus::TextSerializer().Serialize(metrics_->registry()->Collect());
  }
  SendAll(connection,
          absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n",
                       "Content-Length: ", body.size(), "\r\nConnection: close\r\n\r\n", body));
}

}  // namespace baton
