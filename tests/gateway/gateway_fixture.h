// A gateway in this process, in front of fake workers, with a client.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "baton/v1/inference.grpc.pb.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"
#include "gateway/gateway.h"
#include "tests/eventually.h"
#include "tests/gateway/fake_worker.h"

namespace baton {

inline grpc::Status Unavailable(const char* reason = nullptr) {
  absl::Status status = absl::UnavailableError("as the test wants it");
  if (reason != nullptr) status = WithReason(status, reason);
  return ToGrpcStatus(status);
}

// One GenerateStream call.
class ClientStream {
 public:
  ClientStream(v1::Inference::Stub* stub, const v1::GenerateRequest& request,
               std::optional<std::chrono::milliseconds> timeout = std::nullopt,
               const std::vector<std::pair<std::string, std::string>>& metadata = {}) {
    for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
    if (timeout.has_value()) context.set_deadline(std::chrono::system_clock::now() + *timeout);
    reader = stub->GenerateStream(&context, request);
  }
  // Events up to the next delta, prompt_logprobs or finished; nullopt at the end of the stream.
  std::optional<v1::GenerateEvent> Next() {
    v1::GenerateEvent event;
    if (!reader->Read(&event)) return std::nullopt;
    return event;
  }
  // Text of the next delta; "(none)" when the next event is something else.
  std::string NextText() {
    const std::optional<v1::GenerateEvent> event = Next();
    return event.has_value() && event->has_delta() ? event->delta().text() : "(none)";
  }
  bool SkipStarted() {
    const std::optional<v1::GenerateEvent> event = Next();
    return event.has_value() && event->has_started();
  }
  // Reads to the end: all text, the last event, the status.
  absl::Status Finish() {
    while (std::optional<v1::GenerateEvent> event = Next()) {
      text += event->delta().text();
      ids.insert(ids.end(), event->delta().token_ids().begin(), event->delta().token_ids().end());
      for (const auto& logprob : event->delta().logprobs()) logprobs.push_back(logprob);
      for (const auto& logprob : event->prompt_logprobs().tokens()) prompt_logprobs.push_back(logprob);
      if (event->has_finished()) finished = event->finished();
      last = *event;
    }
    return FromGrpcStatus(reader->Finish());
  }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader;
  std::string text;
  std::vector<int32_t> ids;
  std::vector<v1::TokenLogprob> logprobs;
  std::vector<v1::TokenLogprob> prompt_logprobs;
  v1::GenerateEvent last;
  std::optional<v1::Finished> finished;
};

class GatewayTest : public ::testing::Test {
 protected:
  // Before the gateway starts.
  void AddWorker(const FakePrefill& worker) { options_.workers.prefill.push_back(worker.address()); }
  void AddWorker(const FakeDecode& worker) { options_.workers.decode.push_back(worker.address()); }

  void StartGateway() {
    options_.workers.link.first_pause = std::chrono::milliseconds(5);
    options_.workers.link.largest_pause = std::chrono::milliseconds(50);
    gateway_ = std::make_unique<Gateway>(options_);
    ASSERT_TRUE(gateway_->Start().ok());
    stub_ = v1::Inference::NewStub(NewChannel(gateway_->address()));
    fleet_ = v1::Fleet::NewStub(NewChannel(gateway_->address()));
  }
  // Starts it and waits until it knows that many serving workers.
  void StartGatewayWith(int workers) {
    StartGateway();
    ASSERT_TRUE(Eventually([&] { return Serving() == workers; }));
  }

  v1::GetStatusResponse Status() {
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    EXPECT_TRUE(fleet_->GetStatus(&context, {}, &response).ok());
    return response;
  }
  int Serving() {
    int serving = 0;
    const v1::GetStatusResponse status = Status();
    for (const auto& worker : status.workers()) serving += worker.state() == "SERVING" ? 1 : 0;
    return serving;
  }
  // Nothing of a request is left anywhere in the gateway.
  bool Idle() {
    return Eventually([&] {
      const v1::GetStatusResponse status = Status();
      return status.running_requests() == 0 && status.queued_requests() == 0 && gateway_->calls() == 0;
    });
  }

  // Four prompt tokens, greedy, no text defaults to trip over.
  static v1::GenerateRequest SimpleRequest(int max_new_tokens = 8) {
    v1::GenerateRequest request;
    for (int32_t id : {2, 100, 101, 102}) request.mutable_tokens()->add_ids(id);
    request.mutable_stopping()->set_max_new_tokens(max_new_tokens);
    return request;
  }
  static constexpr int64_t kPromptTokens = 4;

  std::unique_ptr<ClientStream> Stream(const v1::GenerateRequest& request,
                                       std::optional<std::chrono::milliseconds> timeout = std::nullopt) {
    return std::make_unique<ClientStream>(stub_.get(), request, timeout);
  }

  GatewayOptions options_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<v1::Fleet::Stub> fleet_;
};

// With one worker of each role.
class PairTest : public GatewayTest {
 protected:
  void SetUp() override {
    AddWorker(prefill_);
    AddWorker(decode_);
    StartGatewayWith(2);
  }

  // A stream whose reservation is made and whose Prefill.Run has arrived.
  struct Running {
    std::unique_ptr<ClientStream> client;
    std::shared_ptr<FakeDecode::Call> decode;
    std::shared_ptr<FakePrefill::Call> prefill;
  };
  Running Begin(const v1::GenerateRequest& request, std::optional<std::chrono::milliseconds> timeout = std::nullopt) {
    Running running;
    running.client = Stream(request, timeout);
    running.decode = decode_.Take();
    EXPECT_NE(running.decode, nullptr);
    running.decode->Push(Reserve(decode_, 1));
    running.prefill = prefill_.Take();
    EXPECT_NE(running.prefill, nullptr);
    EXPECT_TRUE(running.client->SkipStarted());
    return running;
  }
  // The same, and the client has read the first token.
  Running BeginDecoding(const v1::GenerateRequest& request) {
    Running running = Begin(request);
    running.prefill->Push(First(200));
    EXPECT_TRUE(running.client->Next().has_value());
    running.prefill->Push(PrefillDone());
    running.prefill->Finish();
    return running;
  }
  // A gateway that still works after whatever happened before.
  void ExpectServes() {
    Running running = Begin(SimpleRequest(2));
    running.prefill->Push(First(200));
    running.prefill->Push(PrefillDone());
    running.prefill->Finish();
    running.decode->Push(Tokens(5, {201}));
    running.decode->Push(DecodeDone(worker::v1::LENGTH));
    running.decode->Finish();
    EXPECT_TRUE(running.client->Finish().ok());
    EXPECT_EQ(running.client->ids, std::vector<int32_t>({200, 201}));
  }

  FakePrefill prefill_;
  FakeDecode decode_;
};

}  // namespace baton
