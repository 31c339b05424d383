// Connections to decode workers, one for each endpoint, made at first use and kept while they are used. Not
// thread-safe: the engine thread's.
#pragma once

#include <memory>
#include <string>

#include <grpcpp/channel.h>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace baton {

class DecodeChannels {
 public:
  // `endpoint`: host:port. Also drops connections that no handoff was begun on for a while.
  std::shared_ptr<grpc::Channel> Get(const std::string& endpoint, absl::Time now);
  // After a call on it found nobody there: the next Get connects anew at once instead of waiting out gRPC's backoff,
  // so that a restarted worker is used again.
  void Forget(const std::string& endpoint);
  size_t size() const { return channels_.size(); }

 private:
  static constexpr absl::Duration kIdle = absl::Minutes(2);

  struct Entry {
    std::shared_ptr<grpc::Channel> channel;
    absl::Time last_used;
  };
  absl::flat_hash_map<std::string, Entry> channels_;
};

}  // namespace baton
