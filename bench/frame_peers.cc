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
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"
#include "bench/frame_connection.h"
#include "bench/instant_workers.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;
using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;

// As the real worker: messages in line at which further tokens wait for a common one.
constexpr size_t kQueuedMessagesWhenBehind = 2;
// More than any stream gets.
constexpr int kEndless = 1 << 28;
constexpr double kLoadReportSeconds = 0.5;
// Steps that may be caught up with at once: a few, or those of a moment.
constexpr double kMaxStepsDue = 4;
constexpr double kMaxSecondsDue = 0.02;
constexpr int64_t kTokenizerPieceBytes = 1 << 20;

// A stream that the worker serves.
struct Served {
  FrameConnection* connection;
  int32_t id;
  int64_t position;
  DecodeEvent unread;
};

// A stream that a client reads.
struct Reading {
  int64_t next = 0;
  size_t text_bytes = 0;
  bool begun = false;
  bool finished = false;
  std::string problem;
};

}  // namespace

struct FramePeers::Impl {
  // The worker's side of all connections.
  struct Worker : FrameConnection::Handler {
    explicit Worker(Impl* all) : all(all) {}
    void OnMessage(FrameConnection& connection, int32_t id, absl::string_view message) override {
      all->Serve(connection, id, message);
    }
    void OnClose(FrameConnection& connection, int32_t id, int, const std::string&) override {
      all->served.erase({&connection, id});
      all->watches.erase({&connection, id});
    }
    Impl* const all;
  };
  struct Clients : FrameConnection::Handler {
    explicit Clients(Impl* all) : all(all) {}
    void OnMessage(FrameConnection& connection, int32_t id, absl::string_view message) override {
      all->Take(all->reading[{&connection, id}], message);
    }
    void OnClose(FrameConnection& connection, int32_t id, int status, const std::string& message) override {
      all->Ended({&connection, id}, status, message);
    }
    Impl* const all;
  };
  using Key = std::pair<FrameConnection*, int32_t>;

  ~Impl() {
    stopping = true;
    Wake();
    if (thread.joinable()) thread.join();
    close(listener);
    close(wake);
    close(epoll);
  }

  // ---- the worker

  void Serve(FrameConnection& connection, int32_t id, absl::string_view message) {
    const std::string& path = connection.path(id);
    connection.Respond(id);
    if (path == "/baton.worker.v1.Worker/GetInfo") {
      connection.Send(id, info.SerializeAsString());
      return connection.End(id);
    }
    if (path == "/baton.worker.v1.Worker/GetTokenizer") {
      for (size_t at = 0; at < tokenizer.size(); at += kTokenizerPieceBytes) {
        worker::v1::TokenizerPiece piece;
        piece.set_data(tokenizer.substr(at, kTokenizerPieceBytes));
        connection.Send(id, piece.SerializeAsString());
      }
      return connection.End(id);
    }
    if (path == "/baton.worker.v1.Worker/WatchLoad") {
      watches.insert({{&connection, id}, true});
      return ReportLoad();
    }
    DecodeRequest request;
    if (path != "/baton.worker.v1.Decode/Run" ||
        !request.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
      return connection.End(id);
    }
    DecodeEvent event;
    event.mutable_reservation()->set_reservation_id(++last_reservation);
    event.mutable_reservation()->set_generation(1);
    event.mutable_reservation()->set_boot_id(info.boot_id());
    event.mutable_reservation()->set_endpoint(address);
    event.mutable_reservation()->set_bytes(1);
    connection.Send(id, event.SerializeAsString());
    served[{&connection, id}] = {&connection, id, request.tokens_size() + 1, {}};
    ++tokens_sent;
    ++messages_sent;
    // Else it is the prefill worker's.
    if (!request.compute_prompt()) return;
    event.mutable_first_token()->set_id(TokenAt(request.tokens_size()));
    connection.Send(id, event.SerializeAsString());
  }

  void ReportLoad() {
    worker::v1::Load load;
    load.set_running(static_cast<int64_t>(served.size()));
    load.set_state_bytes_total(info.state_bytes_total());
    load.set_tokens_done(tokens_sent);
    for (const auto& [key, watching] : watches) key.first->Send(key.second, load.SerializeAsString());
  }

  void Send(Served& stream) {
    stream.unread.SerializeToString(&scratch);
    stream.connection->Send(stream.id, scratch);
    stream.unread.Clear();
    ++messages_sent;
  }

  void StepAll() {
    for (auto& [key, stream] : served) {
      worker::v1::Progress* const progress = stream.unread.mutable_progress();
      if (progress->tokens().empty()) progress->add_tokens()->set_position(stream.position);
      progress->mutable_tokens(0)->add_ids(TokenAt(stream.position));
      ++stream.position;
      ++tokens_sent;
      // As DecodeEngine::Flush.
      if (stream.connection->queued(stream.id) < kQueuedMessagesWhenBehind) Send(stream);
    }
  }

  void EndAll() {
    for (auto& [key, stream] : served) {
      stream.unread.mutable_progress()->add_done()->set_reason(worker::v1::LENGTH);
      Send(stream);
      stream.connection->End(stream.id);
    }
    served.clear();
  }

  // ---- the clients

  void Take(Reading& stream, absl::string_view message) {
    const int size = static_cast<int>(message.size());
    if (!options.through_gateway) {
      if (!decode_event.ParseFromArray(message.data(), size)) stream.problem = "a message that is none";
      if (decode_event.has_first_token()) {
        Check(stream, decode_event.first_token().id());
        Count(stream, 1);
      }
      for (const auto& chunk : decode_event.progress().tokens()) {
        for (const int32_t id : chunk.ids()) Check(stream, id);
        Count(stream, chunk.ids_size());
      }
      if (!decode_event.progress().done().empty()) stream.finished = true;
      return;
    }
    if (!generate_event.ParseFromArray(message.data(), size)) stream.problem = "a message that is none";
    if (generate_event.has_delta()) {
      for (const int32_t id : generate_event.delta().token_ids()) Check(stream, id);
      stream.text_bytes += generate_event.delta().text().size();
      Count(stream, generate_event.delta().token_ids_size());
    }
    if (!generate_event.has_finished()) return;
    stream.finished = true;
    const int64_t told = generate_event.finished().usage().completion_tokens();
    if (told != stream.next - options.prompt_tokens) stream.problem = "a stream ended with tokens missing";
    if (stream.text_bytes == 0) stream.problem = "a stream without text";
  }
  void Check(Reading& stream, int32_t id) {
    if (id != TokenAt(stream.next)) stream.problem = absl::StrCat("another token at position ", stream.next);
    ++stream.next;
  }
  void Count(Reading& stream, int64_t count) {
    if (count == 0) return;
    tokens += count;
    ++messages;
    if (!std::exchange(stream.begun, true)) ++begun;
  }

  void Ended(const Key& key, int status, const std::string& message) {
    const auto found = reading.find(key);
    if (found == reading.end()) return;
    Reading& stream = found->second;
    if (status != 0) stream.problem = absl::StrCat("gRPC status ", status, ": ", message);
    if (stream.problem.empty() && !stream.finished) stream.problem = "a stream ended without saying why";
    if (stream.problem.empty()) {
      ++ended_well;
    } else {
      absl::MutexLock lock(&mutex);
      if (problem.empty()) problem = stream.problem;
      ++ended_badly;
    }
    reading.erase(found);
  }

  std::string ClientMessage() const {
    if (!options.through_gateway) {
      DecodeRequest request;
      request.mutable_tokens()->Add(prompt.begin(), prompt.end());
      request.mutable_stopping()->set_max_new_tokens(kEndless);
      request.set_compute_prompt(true);
      return request.SerializeAsString();
    }
    v1::GenerateRequest request;
    request.mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
    request.mutable_stopping()->set_max_new_tokens(kEndless);
    request.mutable_stopping()->set_ignore_eos(true);
    return request.SerializeAsString();
  }

  void OpenStreams(const std::vector<int>& sockets, int streams) {
    std::vector<FrameConnection*> opened;
    for (const int fd : sockets) opened.push_back(Add(fd, FrameConnection::Side::kClient, &clients));
    const std::string path =
        options.through_gateway ? "/baton.v1.Inference/GenerateStream" : "/baton.worker.v1.Decode/Run";
    const std::string message = ClientMessage();
    for (int i = 0; i < streams; ++i) {
      FrameConnection* const connection = opened[static_cast<size_t>(i) % opened.size()];
      reading[{connection, connection->Request(path, message)}].next = options.prompt_tokens;
    }
  }

  // ---- the thread

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
    Add(fd, FrameConnection::Side::kServer, &worker_side);
  }

  void Drop(int fd) {
    const auto found = connections.find(fd);
    FrameConnection* const gone = found->second.get();
    const auto of = [gone](const auto& entry) { return entry.first.first == gone; };
    for (auto at = served.begin(); at != served.end();) at = of(*at) ? served.erase(at) : std::next(at);
    for (auto at = watches.begin(); at != watches.end();) at = of(*at) ? watches.erase(at) : std::next(at);
    for (auto at = reading.begin(); at != reading.end();) {
      const Key key = at->first;
      ++at;
      if (key.first == gone) Ended(key, -1, "the connection broke");
    }
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
      StepAll();
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
        ReportLoad();
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
  int32_t TokenAt(int64_t position) const { return text_ids[static_cast<size_t>(position) % text_ids.size()]; }

  FramePeersOptions options;
  worker::v1::WorkerInfo info;
  std::string tokenizer;
  std::vector<int32_t> text_ids;
  std::vector<int32_t> prompt;
  std::string address;
  int listener = -1;
  int epoll = -1;
  int wake = -1;
  Worker worker_side{this};
  Clients clients{this};
  std::atomic<bool> stopping{false};

  // The thread's.
  std::map<int, std::unique_ptr<FrameConnection>> connections;
  std::map<Key, Served> served;
  std::map<Key, bool> watches;
  std::map<Key, Reading> reading;
  uint64_t last_reservation = 0;
  double rate = 0;
  double taken = 0;
  Clock::time_point rate_set;
  std::string scratch;
  DecodeEvent decode_event;
  v1::GenerateEvent generate_event;

  std::atomic<int64_t> tokens_sent{0};
  std::atomic<int64_t> messages_sent{0};
  std::atomic<int64_t> tokens{0};
  std::atomic<int64_t> messages{0};
  std::atomic<int64_t> begun{0};
  std::atomic<int64_t> ended_well{0};
  std::atomic<int64_t> ended_badly{0};
  std::atomic<int64_t> steps_missed{0};
  absl::Mutex mutex;
  std::vector<std::function<void()>> commands ABSL_GUARDED_BY(mutex);
  std::string problem ABSL_GUARDED_BY(mutex);
  std::thread thread;
};

FramePeers::FramePeers(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FramePeers::~FramePeers() = default;

absl::StatusOr<std::unique_ptr<FramePeers>> FramePeers::Start(const FramePeersOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  BATON_ASSIGN_OR_RETURN(InstantWorkerModel model, ReadInstantWorkerModel(options.model));
  impl->info = InstantWorkerInfo(model, worker::v1::WorkerInfo::DECODE, /*computes_prompts=*/true);
  impl->tokenizer = std::move(model.tokenizer_bytes);
  impl->text_ids = std::move(model.text_ids);
  for (int i = 0; i < options.prompt_tokens; ++i) impl->prompt.push_back(impl->TokenAt(i));
  impl->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  sockaddr* const name = reinterpret_cast<sockaddr*>(&at);
  if (bind(impl->listener, name, size) != 0 || listen(impl->listener, 64) != 0 ||
      getsockname(impl->listener, name, &size) != 0) {
    return absl::UnavailableError("cannot listen on 127.0.0.1");
  }
  impl->address = absl::StrCat("127.0.0.1:", ntohs(at.sin_port));
  impl->epoll = epoll_create1(EPOLL_CLOEXEC);
  impl->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  for (const int fd : {impl->listener, impl->wake}) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(impl->epoll, EPOLL_CTL_ADD, fd, &event) != 0) return absl::InternalError("epoll does not work");
  }
  impl->thread = std::thread([all = impl.get()] { all->Loop(); });
  return std::unique_ptr<FramePeers>(new FramePeers(std::move(impl)));
}

const std::string& FramePeers::worker() const { return impl_->address; }

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
  impl_->Run([all = impl_.get(), sockets, streams] { all->OpenStreams(sockets, streams); });
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
  impl_->Run([all = impl_.get()] { all->EndAll(); });
}

FramePeers::Counts FramePeers::counts() const {
  return {impl_->tokens_sent, impl_->messages_sent, impl_->tokens,      impl_->messages,
          impl_->begun,       impl_->ended_well,    impl_->ended_badly, impl_->steps_missed};
}

std::string FramePeers::problem() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->problem;
}

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
