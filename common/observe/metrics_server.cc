#include <poll.h>
#include <prometheus/text_serializer.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/observe/metrics.h"

namespace baton {
namespace {

// How long to wait for file descriptors to be given back.
constexpr int kNoDescriptorsPauseMs = 20;
constexpr size_t kMaxRequestBytes = 8192;
constexpr timeval kPeerTimeout = {5, 0};

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
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  BATON_CHECK(write(stop_event_.get(), &one, sizeof(one)) == sizeof(one));
  thread_.join();
}

absl::Status MetricsServer::Start(const std::string& address) {
  BATON_CHECK(!thread_.joinable());
  BATON_ASSIGN_OR_RETURN(listening_, Listen(address, "--metrics"));
  stop_event_ = FileDescriptor(eventfd(0, EFD_CLOEXEC));
  if (!stop_event_.is_open()) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics: ", std::strerror(errno)));
  }
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void MetricsServer::Loop() {
  std::vector<pollfd> waiting = {{stop_event_.get(), POLLIN, 0}};
  for (const FileDescriptor& socket : listening_.sockets) waiting.push_back({socket.get(), POLLIN, 0});
  while (true) {
    if (poll(waiting.data(), waiting.size(), -1) < 0) continue;  // Interrupted.
    if (waiting[0].revents != 0) return;
    for (size_t i = 1; i < waiting.size(); ++i) {
      if (waiting[i].revents == 0) continue;
      const FileDescriptor connection(accept4(waiting[i].fd, nullptr, nullptr, SOCK_CLOEXEC));
      if (connection.is_open()) {
        Answer(connection.get());
      } else if (errno == EMFILE || errno == ENFILE) {
        // The connection waits on, and would wake this thread at once.
        pollfd stop = waiting[0];
        poll(&stop, 1, kNoDescriptorsPauseMs);
      }
    }
  }
}

void MetricsServer::Answer(int connection) const {
  setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &kPeerTimeout, sizeof(kPeerTimeout));
  setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &kPeerTimeout, sizeof(kPeerTimeout));
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
