#include "common/rpc/reset_guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <memory>
#include <set>

#include "absl/strings/numbers.h"
#include "common/base/file_descriptor.h"

namespace baton {
namespace {

// Calls between two judgements below which nobody is flooding.
constexpr int64_t kManyStarted = 100;
// Streams broken since the last look that make a connection one of those that flood.
constexpr int64_t kManyBroken = 10;
// The same at the first look, when all that a connection has ever done is in its counts.
constexpr int64_t kManyBrokenEver = 100;
// Of the time between looks.
constexpr int kLookShare = 10;

}  // namespace

std::vector<std::string> ResetGuard::Judge(const ServerCalls& calls,
                                           absl::FunctionRef<std::vector<ConnectionCalls>()> connections,
                                           Clock::time_point now) {
  const int64_t started = calls.started - started_;
  const int64_t unfinished = calls.started - calls.finished;
  started_ = calls.started;
  if (unfinished <= max_orphans_) {
    overwhelmed_ = false;
    broken_.clear();
    return {};
  }
  if (now < next_look_ || (!overwhelmed_ && started < kManyStarted)) return {};
  const std::vector<ConnectionCalls> all = connections();
  next_look_ = now + kLookShare * (Clock::now() - now);
  int64_t orphans = unfinished;
  for (const ConnectionCalls& connection : all) orphans -= connection.open;
  overwhelmed_ = orphans > max_orphans_;
  const bool first = broken_.empty();
  std::vector<std::string> flooding;
  std::map<int64_t, int64_t> broken;
  for (const ConnectionCalls& connection : all) {
    broken[connection.id] = connection.broken;
    const auto last = broken_.find(connection.id);
    const int64_t lately = connection.broken - (last != broken_.end() ? last->second : 0);
    const bool floods =
        first ? lately >= kManyBrokenEver && 2 * connection.broken > connection.closed : lately >= kManyBroken;
    if (floods) flooding.push_back(connection.peer);
  }
  broken_ = std::move(broken);
  if (!overwhelmed_ || started < kManyStarted) return {};
  return flooding;
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
