// Both ends of a gateway's streams, made as cheap as they can be so that one core of load keeps one core of gateway
// busy: a decode worker and the clients, in one thread that reads and writes HTTP/2 frames itself (libnghttp2) where
// gRPC would cost as much as the gateway does. They speak the real protocol. The worker sends as the real one does: in
// each step a message with one token for each stream, and several tokens in one message only while two messages of the
// stream wait to be sent, which is when the gateway lets them (decode/engine.cc).
//
//   BATON_ASSIGN_OR_RETURN(auto peers, FramePeers::Start(options));
//   ... a gateway with --decode-worker peers->worker() ...
//   peers->Open(gateway, /*connections=*/4, /*streams=*/256);
//   peers->Step(200);              // 51,200 tokens a second from now on
//   peers->EndStreams();
//
// Every token a client gets is compared with what it has to be.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace baton {

struct FramePeersOptions {
  // A directory with tokenizer.model.
  std::string model = "deploy/models/tiny-gemma2";
  // Of each stream. First tokens of the prompts that a prefill worker is asked for come from there (InstantWorkers).
  int prompt_tokens = 16;
  // Clients ask a gateway (GenerateStream); else a relay of the worker (Decode.Run).
  bool through_gateway = true;
};

class FramePeers {
 public:
  struct Counts {
    // By the worker.
    int64_t tokens_sent = 0;
    int64_t messages_sent = 0;
    // Tokens, and messages with tokens in them, at the clients.
    int64_t tokens = 0;
    int64_t messages = 0;
    int64_t begun = 0;
    int64_t ended_well = 0;
    int64_t ended_badly = 0;
    // Steps that were due and have been left out, as this core is too slow for them.
    int64_t steps_missed = 0;
  };

  // UNIMPLEMENTED where this program was built without libnghttp2.
  static absl::StatusOr<std::unique_ptr<FramePeers>> Start(const FramePeersOptions& options);
  ~FramePeers();
  FramePeers(const FramePeers&) = delete;

  const std::string& worker() const;
  absl::Status Open(const std::string& target, int connections, int streams);
  // From now on; 0: none.
  void Step(double steps_per_second);
  void EndStreams();

  Counts counts() const;
  // Why the first stream that ended badly did.
  std::string problem() const;

 private:
  struct Impl;
  explicit FramePeers(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace baton
