#include "common/rpc/reset_guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <set>

#include "absl/strings/numbers.h"
#include "common/base/file_descriptor.h"

namespace baton {
namespace {

// Of the resets that are too many, what makes a connection one of those that flood.
constexpr int kShare = 10;
// Of the time, what looking at all connections may take.
constexpr int kLookShare = 10;
constexpr std::chrono::seconds kBurst(1);
constexpr std::chrono::seconds kCalmAfter(2);

}  // namespace

std::vector<std::string> ResetGuard::Judge(int64_t started_calls,
                                           absl::FunctionRef<std::vector<ConnectionCalls>()> connections,
                                           Clock::time_point now) {
  const bool first = judged_ == Clock::time_point::min();
  const double seconds = first ? 0 : std::chrono::duration<double>(now - judged_).count();
  const int64_t started = started_calls - started_;
  started_ = started_calls;
  judged_ = now;
  if (floods_ && now - last_flood_ > kCalmAfter) floods_ = false;
  if (first || static_cast<double>(started) <= static_cast<double>(max_resets_) * seconds) {
    last_look_.reset();
    return {};
  }
  if (now < next_look_) return {};
  const std::vector<ConnectionCalls> all = connections();
  next_look_ = now + kLookShare * (Clock::now() - now);
  int64_t resets = 0;
  std::vector<std::string> peers;
  Look look = {now, {}};
  for (const ConnectionCalls& connection : all) {
    look.broken[connection.id] = connection.broken;
    int64_t lately = connection.broken;
    if (last_look_.has_value()) {
      const auto before = last_look_->broken.find(connection.id);
      if (before != last_look_->broken.end()) lately -= before->second;
    } else if (connection.broken <= connection.answered) {
      // All that a connection has done in its life: few reset most of their calls.
      lately = 0;
    }
    const int64_t open = connection.started - connection.answered - connection.broken;
    lately += std::max<int64_t>(0, open - max_streams_);
    resets += lately;
    if (lately * kShare > max_resets_) peers.push_back(connection.peer);
  }
  const bool flood = resets > max_resets_;
  // As many as a second may have are a burst, in however short a time they come.
  if (flood || !last_look_.has_value() || now - last_look_->at >= kBurst) last_look_ = std::move(look);
  if (!flood) return {};
  floods_ = true;
  last_flood_ = now;
  return peers;
}

void Disconnect(const std::vector<std::string>& peers) {
  if (peers.empty()) return;
  const std::set<std::string> wanted(peers.begin(), peers.end());
  const std::unique_ptr<DIR, int (*)(DIR*)> files(opendir("/proc/self/fd"), closedir);
  if (files == nullptr) return;
  while (const dirent* const entry = readdir(files.get())) {
    int number = 0;
    if (!absl::SimpleAtoi(entry->d_name, &number) || wanted.count(PeerOf(number)) == 0) continue;
    // A copy of one's own: the number may be another file's by now.
    const FileDescriptor socket(fcntl(number, F_DUPFD_CLOEXEC, 0));
    if (!socket.is_open() || wanted.count(PeerOf(socket.get())) == 0) continue;
    // Unlike shutdown(2) this drops what waits to be read, too.
    const sockaddr nobody = {AF_UNSPEC, {}};
    connect(socket.get(), &nobody, sizeof(nobody));
  }
}

}  // namespace baton
