// Where a generation's events go: a client's stream, or one collected response. Finish is called exactly once, last.
#pragma once

#include <memory>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "baton/v1/inference.pb.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/status_mapping.h"

namespace baton {

class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // False: the client is gone or reads too slowly, and gets nothing more but the status.
  virtual bool Push(v1::GenerateEvent event) = 0;
  // The client has gone away: that, and not slowness, is why Push fails.
  virtual bool gone() const { return false; }
  virtual void Finish(const absl::Status& status) = 0;
};

// Appends a delta to the one before it when both are of the same choice: for a stream whose events wait
// (EventWriter::Merge). The client gets the same text and ids in fewer messages. Not with log probabilities, which
// would make large messages and a large queue.
bool MergeDeltas(v1::GenerateEvent* into, v1::GenerateEvent* from);

// GenerateStream. What is queued when the limit is reached is still delivered, before the status.
class StreamSink final : public GenerationSink {
 public:
  using Handle = EventWriter<v1::GenerateEvent>::Handle;
  explicit StreamSink(std::shared_ptr<Handle> handle) : handle_(std::move(handle)) {}
  bool Push(v1::GenerateEvent event) override { return handle_->Push(std::move(event)); }
  bool gone() const override { return handle_->cancelled(); }
  void Finish(const absl::Status& status) override { handle_->Finish(ToGrpcStatus(status)); }

 private:
  const std::shared_ptr<Handle> handle_;
};

// Generate. `reactor` lives until it is finished, `response` as long.
class ResponseSink final : public GenerationSink {
 public:
  ResponseSink(grpc::ServerUnaryReactor* reactor, v1::GenerateResponse* response)
      : reactor_(reactor), response_(response) {}

  bool Push(v1::GenerateEvent event) override {
    if (event.has_started()) {
      response_->set_request_id(event.started().request_id());
      response_->set_model(event.started().model());
      response_->set_seed(event.started().seed());
      for (int i = 0; i < event.started().seeds_size(); ++i) response_->add_choices();
    } else if (event.has_prompt_logprobs()) {
      response_->mutable_prompt_logprobs()->MergeFrom(event.prompt_logprobs().tokens());
    } else if (event.has_delta()) {
      const v1::Delta& delta = event.delta();
      if (delta.choice() < response_->choices_size()) Append(delta, response_->mutable_choices(delta.choice()));
      if (delta.choice() == 0) Append(delta, response_);
    } else if (event.has_finished()) {
      for (v1::ChoiceFinished& choice : *event.mutable_finished()->mutable_choices()) {
        response_->mutable_choices(choice.choice())->mutable_finished()->Swap(&choice);
      }
      event.mutable_finished()->clear_choices();
      response_->mutable_finished()->Swap(event.mutable_finished());
    }
    return true;
  }
  void Finish(const absl::Status& status) override { reactor_->Finish(ToGrpcStatus(status)); }

 private:
  // `to`: a response or a choice.
  template <typename Message>
  static void Append(const v1::Delta& delta, Message* to) {
    to->mutable_text()->append(delta.text());
    to->mutable_token_ids()->MergeFrom(delta.token_ids());
    to->mutable_logprobs()->MergeFrom(delta.logprobs());
  }

  grpc::ServerUnaryReactor* const reactor_;
  v1::GenerateResponse* const response_;
};

}  // namespace baton
