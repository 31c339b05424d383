// A decode worker as a prefill worker sees it: Decode.Receive and nothing else, doing what the test tells it to. Which
// behaviour applies is chosen by reservation id.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/base/status_macros.h"
#include "tests/eventually.h"

namespace baton {

class FakeDecode final : public worker::v1::Decode::Service {
 public:
  enum class Behaviour {
    // Reads to the end and answers `position`.
    kAccept,
    // Answers `status` as soon as the first message is there.
    kRefuse,
    // Reads the first message, then nothing until Release; then goes on as kAccept.
    kStall,
    // Reads everything, then waits for Release before it answers.
    kStallAnswer,
  };
  struct Script {
    Behaviour behaviour = Behaviour::kAccept;
    grpc::Status status;
    int64_t position = 0;
  };
  struct Received {
    worker::v1::StateChunk first;  // without data
    std::string bytes;
    int messages = 0;
    size_t largest = 0;
    bool half_closed = false;
    bool ended = false;
    bool cancelled = false;
    bool released = false;
  };

  FakeDecode() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    // A receiver that does not read holds its sender back after 64 KiB, however fast the loopback is.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
    // As real workers do: channels ping peers that are silent for long.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    BATON_CHECK(server_ != nullptr);
    endpoint_ = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeDecode() override { Die(); }

  std::string endpoint() const { return endpoint_; }
  void Plan(uint64_t id, Script script) {
    absl::MutexLock lock(&mutex_);
    scripts_[id] = script;
  }
  void Release(uint64_t id) {
    absl::MutexLock lock(&mutex_);
    calls_[id].released = true;
  }
  // As when the process is killed: calls are cut, the port is closed.
  void Die() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }

  // What has come so far for a reservation.
  Received Get(uint64_t id) {
    absl::MutexLock lock(&mutex_);
    return calls_[id];
  }
  bool WaitForMessages(uint64_t id, int messages) {
    return Eventually([&] { return Get(id).messages >= messages; });
  }
  bool WaitForEnd(uint64_t id) {
    return Eventually([&] { return Get(id).ended; });
  }

  grpc::Status Receive(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<worker::v1::ReceiveResponse, worker::v1::StateChunk>* stream) override {
    worker::v1::StateChunk chunk;
    if (!stream->Read(&chunk)) return grpc::Status(grpc::StatusCode::CANCELLED, "nothing came");
    const uint64_t id = chunk.reservation_id();
    const Script script = Begin(id, chunk);
    grpc::Status status = script.status;
    if (script.behaviour != Behaviour::kRefuse) {
      status = grpc::Status::OK;
      Record(id, chunk);
      if (script.behaviour == Behaviour::kStall) WaitForRelease(id, context);
      while (stream->Read(&chunk)) Record(id, chunk);
      HalfClosed(id, !context->IsCancelled());
      if (script.behaviour == Behaviour::kStallAnswer) WaitForRelease(id, context);
      worker::v1::ReceiveResponse response;
      response.set_position(script.position);
      stream->Write(response);
    }
    absl::MutexLock lock(&mutex_);
    calls_[id].cancelled = context->IsCancelled();
    calls_[id].ended = true;
    return status;
  }

 private:
  Script Begin(uint64_t id, const worker::v1::StateChunk& chunk) {
    absl::MutexLock lock(&mutex_);
    calls_[id].first = chunk;
    calls_[id].first.clear_data();
    return scripts_[id];
  }
  void Record(uint64_t id, const worker::v1::StateChunk& chunk) {
    absl::MutexLock lock(&mutex_);
    Received& call = calls_[id];
    call.bytes += chunk.data();
    call.largest = std::max(call.largest, chunk.data().size());
    ++call.messages;
  }
  void HalfClosed(uint64_t id, bool half_closed) {
    absl::MutexLock lock(&mutex_);
    calls_[id].half_closed = half_closed;
  }
  void WaitForRelease(uint64_t id, grpc::ServerContext* context) {
    Eventually([&] { return Get(id).released || context->IsCancelled(); });
  }

  std::unique_ptr<grpc::Server> server_;
  std::string endpoint_;
  absl::Mutex mutex_;
  std::map<uint64_t, Script> scripts_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Received> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
