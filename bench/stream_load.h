// Streams that are read as fast as they come, and counted: from a gateway (GenerateStream), or from a decode worker or
// a relay of one (Decode.Run). Every token is compared with what it has to be.
//
//   StreamLoad load(options);
//   load.Open(256);
//   load.AwaitFirstTokens(256, patience);
//   ... load.tokens(), load.messages() ...
//   load.AwaitEnds(patience);      // after the workers ended them
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/channel.h>

#include "absl/synchronization/mutex.h"
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"

namespace baton {

struct StreamLoadOptions {
  std::string target;
  int connections = 4;
  // What each stream asks for: of a gateway, or else of a worker.
  bool through_gateway = true;
  v1::GenerateRequest request;
  worker::v1::DecodeRequest decode_request;
  int64_t prompt_tokens = 0;
  // The token that belongs at a position.
  std::function<int32_t(int64_t)> token_at;
  // Streams are replaced as they end, until Close.
  bool renew = false;
};

class StreamLoad {
 public:
  explicit StreamLoad(StreamLoadOptions options);
  // Cancels what still runs.
  ~StreamLoad();
  StreamLoad(const StreamLoad&) = delete;

  void Open(int streams);
  // No stream is replaced any more.
  void Close() { closed_ = true; }
  // False when it takes longer than `patience`.
  bool AwaitFirstTokens(int64_t streams, std::chrono::seconds patience);
  bool AwaitEnds(std::chrono::seconds patience);
  // Ends what runs, from this side.
  void Cancel();

  // So far. Messages: those with tokens in them.
  int64_t tokens() const { return tokens_; }
  int64_t messages() const { return messages_; }
  int64_t begun() const { return begun_; }
  // Streams that ended as they should: OK, told why, every token once and in order.
  int64_t ended_well() const { return ended_well_; }
  int64_t ended_badly() const { return ended_badly_; }
  // Why the first of those did.
  std::string problem() const;

 private:
  template <typename Event>
  class Stream;

  void Start(size_t connection);
  void Ended(size_t connection, const std::string& problem, grpc::ClientContext* context);
  void Track(const std::shared_ptr<grpc::ClientContext>& context);

  const StreamLoadOptions options_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::atomic<bool> closed_{false};
  std::atomic<int64_t> tokens_{0};
  std::atomic<int64_t> messages_{0};
  std::atomic<int64_t> begun_{0};
  std::atomic<int64_t> ended_well_{0};
  std::atomic<int64_t> ended_badly_{0};
  mutable absl::Mutex mutex_;
  std::vector<std::shared_ptr<grpc::ClientContext>> contexts_ ABSL_GUARDED_BY(mutex_);
  std::string problem_ ABSL_GUARDED_BY(mutex_);
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
