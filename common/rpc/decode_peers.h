// What all handoffs to one decode worker share: the connection, the bound on what is on its way, and shared memory
// where both are on one host. One for each endpoint, made at first use and kept while it is used. Not thread-safe: one
// thread's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <grpcpp/channel.h>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "common/rpc/channel.h"
#include "common/rpc/handoff_credit.h"
#include "common/rpc/handoff_memory.h"

namespace baton {

// How state travels. kAuto offers shared memory for states that are large enough to gain by it, kShm for all; both fall
// back to gRPC where the decode worker cannot open it.
enum class HandoffTransport { kAuto, kGrpc, kShm };

struct DecodePeer {
  // `credit_bytes`: the bound, and the size of the shared memory.
  DecodePeer(std::shared_ptr<grpc::Channel> channel, int64_t credit_bytes)
      : channel(std::move(channel)), credit(credit_bytes), memory(credit_bytes) {}

  const std::shared_ptr<grpc::Channel> channel;
  HandoffCredit credit;
  HandoffMemory memory;
};

class DecodePeers {
 public:
  explicit DecodePeers(int64_t credit_bytes, ChannelOptions channel = {})
      : credit_bytes_(credit_bytes), channel_(std::move(channel)) {}

  // `endpoint`: host:port. Also drops peers that no handoff was begun to for a while.
  std::shared_ptr<DecodePeer> Get(const std::string& endpoint, absl::Time now);
  // After a call to it found nobody there: the next Get connects anew at once instead of waiting out gRPC's backoff,
  // so that a restarted worker is used again.
  void Forget(const std::string& endpoint);
  size_t size() const { return peers_.size(); }

 private:
  static constexpr absl::Duration kIdle = absl::Minutes(2);

  struct Entry {
    std::shared_ptr<DecodePeer> peer;
    absl::Time last_used;
  };
  const int64_t credit_bytes_;
  const ChannelOptions channel_;
  absl::flat_hash_map<std::string, Entry> peers_;
};

}  // namespace baton
