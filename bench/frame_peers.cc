#include "bench/frame_peers.h"

#ifdef BATON_HAVE_NGHTTP2
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "bench/frame_clients.h"
#include "bench/frame_connection.h"
#include "bench/frame_worker.h"
#include "bench/instant_workers.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLoadReportSeconds = 0.5;
// Steps that may be caught up with at once: a few, or those of a moment.
constexpr double kMaxStepsDue = 4;
constexpr double kMaxSecondsDue = 0.02;

}  // namespace

struct FramePeers::Impl {
  // Owns `listening`, the socket of `endpoint`.
  Impl(InstantWorkerModel model, FrameClientsOptions clients_options, std::string endpoint, int listening)
      : worker(std::move(model), std::move(endpoint)), clients(std::move(clients_options)), listener(listening) {}

  ~Impl() {
    stopping = true;
    Wake();
    if (thread.joinable()) thread.join();
    close(listener);
    close(wake);
    close(epoll);
  }

  FrameConnection* Add(int fd, FrameConnection::Side side, FrameConnection::Handler* handler) {
    auto connection = std::make_unique<FrameConnection>(fd, side, handler);
    FrameConnection* const added = connection.get();
    connections[fd] = std::move(connection);
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = fd;
    BATON_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    return added;
  }

  void Accept() {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    const int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    Add(fd, FrameConnection::Side::kServer, &worker);
  }

  void Drop(int fd) {
    const auto found = connections.find(fd);
    worker.Drop(found->second.get());
    clients.Drop(found->second.get());
    connections.erase(found);
  }

  void RunCommands() {
    std::vector<std::function<void()>> waiting;
    {
      absl::MutexLock lock(&mutex);
      waiting.swap(commands);
    }
    for (const auto& command : waiting) command();
  }

  // Takes the steps that are due; how long it is until the next one, in milliseconds.
  int TakeSteps() {
    if (rate <= 0) return 100;
    const double due = std::chrono::duration<double>(Clock::now() - rate_set).count() * rate;
    if (due - taken > std::max(kMaxStepsDue, rate * kMaxSecondsDue)) {
      const double missed = std::floor(due - taken - 1);
      steps_missed += static_cast<int64_t>(missed);
      taken += missed;
    }
    if (taken + 1 <= due) {
      worker.StepAll();
      ++taken;
      return 0;
    }
    return static_cast<int>((taken + 1 - due) / rate * 1000);
  }

  void Loop() {
    Clock::time_point reported = Clock::now();
    epoll_event ready[64];
    int patience = 0;
    while (!stopping) {
      const int count = epoll_wait(epoll, ready, 64, patience);
      for (int i = 0; i < count; ++i) {
        const int fd = ready[i].data.fd;
        if (fd == listener) {
          Accept();
        } else if (fd == wake) {
          uint64_t times;
          [[maybe_unused]] const ssize_t got = read(wake, &times, sizeof(times));
          RunCommands();
        } else if (!connections.at(fd)->OnReadable()) {
          Drop(fd);
        }
      }
      if (std::chrono::duration<double>(Clock::now() - reported).count() > kLoadReportSeconds) {
        reported = Clock::now();
        worker.ReportLoad();
      }
      patience = TakeSteps();
      std::vector<int> broken;
      for (const auto& [fd, connection] : connections) {
        if (!connection->Flush()) broken.push_back(fd);
        // The socket is full: soon again.
        if (connection->wants_to_write()) patience = std::min(patience, 1);
      }
      for (const int fd : broken) Drop(fd);
    }
    connections.clear();
  }

  void Run(std::function<void()> command) {
    {
      absl::MutexLock lock(&mutex);
      commands.push_back(std::move(command));
    }
    Wake();
  }
  void Wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake, &one, sizeof(one));
  }

  FrameWorker worker;
  FrameClients clients;
  const int listener;
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::atomic<bool> stopping{false};

  // The thread's.
  std::map<int, std::unique_ptr<FrameConnection>> connections;
  double rate = 0;
  double taken = 0;
  Clock::time_point rate_set;

  std::atomic<int64_t> steps_missed{0};
  absl::Mutex mutex;
  std::vector<std::function<void()>> commands ABSL_GUARDED_BY(mutex);
  std::thread thread;
};

FramePeers::FramePeers(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FramePeers::~FramePeers() = default;

absl::StatusOr<std::unique_ptr<FramePeers>> FramePeers::Start(const FramePeersOptions& options) {
  BATON_ASSIGN_OR_RETURN(InstantWorkerModel model, ReadInstantWorkerModel(options.model));
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  sockaddr* const name = reinterpret_cast<sockaddr*>(&at);
  if (bind(listener, name, size) != 0 || listen(listener, 64) != 0 || getsockname(listener, name, &size) != 0) {
    close(listener);
    return absl::UnavailableError("cannot listen on 127.0.0.1");
  }
  FrameClientsOptions clients;
  clients.text_ids = model.text_ids;
  clients.prompt_tokens = options.prompt_tokens;
  clients.through_gateway = options.through_gateway;
  auto impl = std::make_unique<Impl>(std::move(model), std::move(clients),
                                     absl::StrCat("127.0.0.1:", ntohs(at.sin_port)), listener);
  for (const int fd : {impl->listener, impl->wake}) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(impl->epoll, EPOLL_CTL_ADD, fd, &event) != 0) return absl::InternalError("epoll does not work");
  }
  impl->thread = std::thread([all = impl.get()] { all->Loop(); });
  return std::unique_ptr<FramePeers>(new FramePeers(std::move(impl)));
}

const std::string& FramePeers::worker() const { return impl_->worker.endpoint(); }

absl::Status FramePeers::Open(const std::string& target, int connections, int streams) {
  const size_t colon = target.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(target.substr(colon + 1), &port)) {
    return absl::InvalidArgumentError(absl::StrCat("no port in \"", target, "\""));
  }
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(port));
  std::vector<int> sockets;
  for (int i = 0; i < connections; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) {
      close(fd);
      for (const int open : sockets) close(open);
      return absl::UnavailableError(absl::StrCat("cannot connect to ", target));
    }
    sockets.push_back(fd);
  }
  impl_->Run([all = impl_.get(), sockets, streams] {
    std::vector<FrameConnection*> opened;
    opened.reserve(sockets.size());
    for (const int fd : sockets) opened.push_back(all->Add(fd, FrameConnection::Side::kClient, &all->clients));
    all->clients.Open(opened, streams);
  });
  return absl::OkStatus();
}

void FramePeers::Step(double steps_per_second) {
  impl_->Run([all = impl_.get(), steps_per_second] {
    all->rate = steps_per_second;
    all->rate_set = Clock::now();
    all->taken = 0;
  });
}

void FramePeers::EndStreams() {
  impl_->Run([all = impl_.get()] { all->worker.EndAll(); });
}

FramePeers::Counts FramePeers::counts() const {
  const FrameWorker& worker = impl_->worker;
  const FrameClients& clients = impl_->clients;
  Counts counts;
  counts.tokens_sent = worker.tokens_sent();
  counts.messages_sent = worker.messages_sent();
  counts.tokens = clients.tokens();
  counts.messages = clients.messages();
  counts.begun = clients.begun();
  counts.ended_well = clients.ended_well();
  counts.ended_badly = clients.ended_badly();
  counts.steps_missed = impl_->steps_missed;
  return counts;
}

std::string FramePeers::problem() const { return impl_->clients.problem(); }

}  // namespace baton

#else

namespace baton {

struct FramePeers::Impl {};
FramePeers::FramePeers(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FramePeers::~FramePeers() = default;
absl::StatusOr<std::unique_ptr<FramePeers>> FramePeers::Start(const FramePeersOptions&) {
  return absl::UnimplementedError(
      "streams and floor need libnghttp2: install libnghttp2-dev, configure and build again, or leave them out with "
      "--measure latency,requests,idle");
}
const std::string& FramePeers::worker() const {
  static const std::string* const none = new std::string;
  return *none;
}
absl::Status FramePeers::Open(const std::string&, int, int) { return absl::UnimplementedError("no libnghttp2"); }
void FramePeers::Step(double) {}
void FramePeers::EndStreams() {}
FramePeers::Counts FramePeers::counts() const { return {}; }
std::string FramePeers::problem() const { return ""; }

}  // namespace baton
#endif
