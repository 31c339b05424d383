#include "common/rpc/event_writer.h"

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using Writer = EventWriter<DecodeEvent>;

DecodeEvent Token(int id) {
  DecodeEvent event;
  event.mutable_progress()->add_tokens()->add_ids(id);
  return event;
}

bool MergeTokens(DecodeEvent* into, DecodeEvent* from) {
  if (!into->has_progress() || !from->has_progress()) return false;
  into->mutable_progress()->mutable_tokens(0)->mutable_ids()->MergeFrom(from->progress().tokens(0).ids());
  return true;
}

// A server whose one stream does what the test says before the call begins: what it pushes then waits, but for the
// first event, which is being written.
class EventWriterTest : public ::testing::Test, public worker::v1::Decode::CallbackService {
 protected:
  void SetUp() override {
    server_.AddService(this);
    ASSERT_TRUE(server_.Start().ok());
    stub_ = worker::v1::Decode::NewStub(NewChannel(server_.address()));
  }
  void TearDown() override { server_.Stop(absl::ZeroDuration()); }

  grpc::ServerWriteReactor<DecodeEvent>* Run(grpc::CallbackServerContext*, const worker::v1::DecodeRequest*) override {
    auto* const writer = new Writer(max_queued_, nullptr, merge_, pacer_);
    produce_(*writer->handle());
    return writer;
  }

  // The ids of each message.
  std::vector<std::vector<int>> Read(std::function<void(Writer::Handle&)> produce) {
    produce_ = std::move(produce);
    grpc::ClientContext context;
    const auto reader = stub_->Run(&context, {});
    std::vector<std::vector<int>> messages;
    DecodeEvent event;
    while (reader->Read(&event)) {
      std::vector<int>& ids = messages.emplace_back();
      for (const auto& chunk : event.progress().tokens()) ids.insert(ids.end(), chunk.ids().begin(), chunk.ids().end());
    }
    EXPECT_TRUE(reader->Finish().ok());
    return messages;
  }

  size_t max_queued_ = 100;
  Writer::Merge merge_ = nullptr;
  WritePacer* pacer_ = nullptr;
  std::function<void(Writer::Handle&)> produce_;
  RpcServer server_{RpcServerOptions()};
  std::unique_ptr<worker::v1::Decode::Stub> stub_;
};

TEST_F(EventWriterTest, WithoutAMergeEachEventIsAMessage) {
  const auto messages = Read([](Writer::Handle& events) {
    for (int id = 1; id <= 4; ++id) EXPECT_TRUE(events.Push(Token(id)));
    events.Finish(grpc::Status::OK);
  });
  EXPECT_EQ(messages, (std::vector<std::vector<int>>{{1}, {2}, {3}, {4}}));
}

TEST_F(EventWriterTest, EventsThatWaitAreMergedInOrder) {
  merge_ = &MergeTokens;
  const auto messages = Read([](Writer::Handle& events) {
    for (int id = 1; id <= 4; ++id) EXPECT_TRUE(events.Push(Token(id)));
    EXPECT_TRUE(events.Push(DecodeEvent()));
    for (int id = 5; id <= 6; ++id) EXPECT_TRUE(events.Push(Token(id)));
    events.Finish(grpc::Status::OK);
  });
  // Not with the one being written, nor past one that will not be merged.
  EXPECT_EQ(messages, (std::vector<std::vector<int>>{{1}, {2, 3, 4}, {}, {5, 6}}));
}

TEST_F(EventWriterTest, TheLimitCountsMessagesOfBoundedSize) {
  merge_ = &MergeTokens;
  max_queued_ = 2;
  constexpr int most = 1 + static_cast<int>(Writer::kMaxMerged);
  const auto messages = Read([](Writer::Handle& events) {
    for (int id = 1; id <= most; ++id) EXPECT_TRUE(events.Push(Token(id))) << id;
    EXPECT_FALSE(events.Push(Token(most + 1)));
    events.Finish(grpc::Status::OK);
  });
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[1].size(), Writer::kMaxMerged);
}

TEST_F(EventWriterTest, WhatThePacerHoldsBackIsWrittenMergedBeforeTheEnd) {
  WritePacer pacer;
  merge_ = &MergeTokens;
  pacer_ = &pacer;
  const auto messages = Read([&pacer](Writer::Handle& events) {
    // As after a write that took for ever.
    pacer.End(0);
    for (int id = 1; id <= 3; ++id) EXPECT_TRUE(events.Push(Token(id)));
    events.Finish(grpc::Status::OK);
  });
  std::vector<int> all;
  for (const auto& ids : messages) all.insert(all.end(), ids.begin(), ids.end());
  EXPECT_EQ(all, (std::vector<int>{1, 2, 3}));
}

TEST_F(EventWriterTest, ACancelledCallEndsThoughThePacerHoldsItBack) {
  WritePacer pacer;
  pacer_ = &pacer;
  std::shared_ptr<Writer::Handle> handle;
  produce_ = [&](Writer::Handle& events) {
    pacer.End(0);
    EXPECT_TRUE(events.Push(Token(1)));
    handle = events.shared_from_this();
  };
  grpc::ClientContext context;
  const auto reader = stub_->Run(&context, {});
  DecodeEvent event;
  EXPECT_TRUE(reader->Read(&event));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_.Stop(absl::ZeroDuration());
  EXPECT_TRUE(handle->cancelled());
  EXPECT_FALSE(handle->Push(Token(2)));
}

}  // namespace
}  // namespace baton
