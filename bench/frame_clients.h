// The clients' side of gRPC connections whose streams cost next to nothing: FramePeers' clients. Every token they get
// is compared with what it has to be. One thread's, but for the counts and the problem.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"
#include "bench/frame_connection.h"

namespace baton {

struct FrameClientsOptions {
  // The tokens of any sequence, over and over.
  std::vector<int32_t> text_ids;
  // Of each stream.
  int prompt_tokens = 16;
  // They ask a gateway (GenerateStream); else a relay of the worker (Decode.Run).
  bool through_gateway = true;
};

class FrameClients : public FrameConnection::Handler {
 public:
  explicit FrameClients(FrameClientsOptions options);

  // So many endless streams, shared out evenly.
  void Open(const std::vector<FrameConnection*>& connections, int streams);
  void OnMessage(FrameConnection& connection, int32_t id, absl::string_view message) override;
  void OnClose(FrameConnection& connection, int32_t id, int status, const std::string& message) override;
  // The connection is gone, with all its streams.
  void Drop(FrameConnection* connection);

  // Received, and the messages they came in.
  int64_t tokens() const { return tokens_; }
  int64_t messages() const { return messages_; }
  // Streams with a first token.
  int64_t begun() const { return begun_; }
  int64_t ended_well() const { return ended_well_; }
  int64_t ended_badly() const { return ended_badly_; }
  // Why the first stream that ended badly did.
  std::string problem() const;

 private:
  using Key = std::pair<FrameConnection*, int32_t>;
  struct Stream {
    int64_t next = 0;
    size_t text_bytes = 0;
    bool begun = false;
    bool finished = false;
    std::string problem;
  };

  std::string Request() const;
  void TakeFromGateway(Stream& stream, absl::string_view message);
  void TakeFromWorker(Stream& stream, absl::string_view message);
  void Check(Stream& stream, int32_t id);
  void Count(Stream& stream, int64_t count);
  int32_t TokenAt(int64_t position) const {
    return options_.text_ids[static_cast<size_t>(position) % options_.text_ids.size()];
  }

  const FrameClientsOptions options_;
  std::map<Key, Stream> streams_;
  // Kept for their memory.
  worker::v1::DecodeEvent decode_event_;
  v1::GenerateEvent generate_event_;
  std::atomic<int64_t> tokens_{0};
  std::atomic<int64_t> messages_{0};
  std::atomic<int64_t> begun_{0};
  std::atomic<int64_t> ended_well_{0};
  std::atomic<int64_t> ended_badly_{0};
  mutable absl::Mutex mutex_;
  std::string problem_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
