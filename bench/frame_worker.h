// A decode worker's side of gRPC connections whose streams cost next to nothing: FramePeers' worker. One thread's, but
// for the counts.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "baton/worker/v1/worker.pb.h"
#include "bench/frame_connection.h"
#include "bench/instant_workers.h"

namespace baton {

class FrameWorker : public FrameConnection::Handler {
 public:
  // `endpoint`: its own, as gateways reach it.
  FrameWorker(InstantWorkerModel model, std::string endpoint);

  void OnMessage(FrameConnection& connection, int32_t id, absl::string_view message) override;
  void OnClose(FrameConnection& connection, int32_t id, int status, const std::string& message) override;
  // The connection is gone, with all its streams.
  void Drop(FrameConnection* connection);

  // A token for each stream.
  void StepAll();
  void EndAll();
  void ReportLoad();

  const std::string& endpoint() const { return endpoint_; }
  int64_t tokens_sent() const { return tokens_sent_; }
  int64_t messages_sent() const { return messages_sent_; }

 private:
  using Key = std::pair<FrameConnection*, int32_t>;
  struct Stream {
    FrameConnection* connection;
    int32_t id;
    int64_t position;
    // Tokens of steps whose message has not been sent yet.
    worker::v1::DecodeEvent unsent;
  };

  void SendTokenizer(FrameConnection& connection, int32_t id);
  void Begin(FrameConnection& connection, int32_t id, const worker::v1::DecodeRequest& request);
  void Send(Stream& stream);
  int32_t TokenAt(int64_t position) const {
    return model_.text_ids[static_cast<size_t>(position) % model_.text_ids.size()];
  }

  const InstantWorkerModel model_;
  const std::string endpoint_;
  const worker::v1::WorkerInfo info_;
  std::map<Key, Stream> streams_;
  std::set<Key> watches_;
  uint64_t last_reservation_ = 0;
  std::string scratch_;
  std::atomic<int64_t> tokens_sent_{0};
  std::atomic<int64_t> messages_sent_{0};
};

}  // namespace baton
