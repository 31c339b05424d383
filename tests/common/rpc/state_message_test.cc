#include "common/rpc/state_message.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace baton {
namespace {

using worker::v1::StateChunk;

std::string Flatten(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

grpc::ByteBuffer InSlices(const std::string& bytes, size_t size) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += size) slices.emplace_back(bytes.substr(at, size));
  if (slices.empty()) slices.emplace_back(std::string());
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string Data(const StateMessage& message) {
  std::string data;
  for (absl::string_view slice : message.data()) data.append(slice.data(), slice.size());
  EXPECT_EQ(data.size(), message.data_bytes());
  return data;
}

StateChunk Head() {
  StateChunk head;
  head.set_reservation_id(7);
  head.set_generation(1ull << 60);
  head.set_boot_id("boot");
  head.mutable_offer()->set_process(123456);
  head.mutable_offer()->set_file(9);
  head.mutable_offer()->set_nonce(std::string(32, 'n'));
  head.add_shared()->set_offset(4096);
  head.add_shared()->set_length(77);
  return head;
}

TEST(StateMessageTest, IsAStateChunkLikeAnyOther) {
  auto owned = std::make_shared<std::string>(100000, 'x');
  ByteChain frames;
  frames.Add("head");
  frames.AddReference(*owned, owned);
  frames.Add("tail");
  StateChunk expected = Head();
  expected.set_data("head" + *owned + "tail");
  const grpc::ByteBuffer message = MakeStateMessage(Head(), std::move(frames));
  StateChunk parsed;
  ASSERT_TRUE(parsed.ParseFromString(Flatten(message)));
  EXPECT_EQ(parsed.SerializeAsString(), expected.SerializeAsString());
  StateChunk empty;
  ASSERT_TRUE(empty.ParseFromString(Flatten(MakeStateMessage(StateChunk(), ByteChain()))));
  EXPECT_EQ(empty.ByteSizeLong(), 0u);
}

TEST(StateMessageTest, ReferencesAreNotCopiedAndLetGo) {
  auto owned = std::make_shared<std::string>(100000, 'x');
  std::weak_ptr<std::string> watched = owned;
  const char* const where = owned->data();
  ByteChain frames;
  const absl::string_view bytes = *owned;
  frames.AddReference(bytes, std::move(owned));
  {
    const grpc::ByteBuffer message = MakeStateMessage(StateChunk(), std::move(frames));
    std::vector<grpc::Slice> slices;
    ASSERT_TRUE(message.Dump(&slices).ok());
    EXPECT_EQ(reinterpret_cast<const char*>(slices.back().begin()), where);
    EXPECT_FALSE(watched.expired());
  }
  EXPECT_TRUE(watched.expired());
}

TEST(StateMessageTest, WhateverTheNetworkMakesOfItIsRead) {
  StateChunk chunk = Head();
  std::string data;
  for (int i = 0; i < 1000; ++i) data += static_cast<char>(i);
  chunk.set_data(data);
  const std::string bytes = chunk.SerializeAsString();
  for (size_t size : {size_t{1}, size_t{3}, size_t{30}, bytes.size()}) {
    const absl::StatusOr<StateMessage> message = StateMessage::Parse(InSlices(bytes, size));
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(Data(*message), data);
    EXPECT_EQ(message->head().SerializeAsString(), Head().SerializeAsString());
  }
  const absl::StatusOr<StateMessage> nothing = StateMessage::Parse(InSlices("", 1));
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->data_bytes(), 0u);
}

TEST(StateMessageTest, MovesWithItsBytes) {
  StateChunk chunk;
  chunk.set_data("short");  // gRPC keeps such slices within the slice object
  absl::StatusOr<StateMessage> parsed = StateMessage::Parse(InSlices(chunk.SerializeAsString(), 100));
  ASSERT_TRUE(parsed.ok());
  const StateMessage message = *std::move(parsed);
  EXPECT_EQ(Data(message), "short");
}

// Damaged in any way: either refused, or read as protobuf reads it.
TEST(StateMessageTest, DamagedMessagesAreReadAsProtobufDoesOrNotAtAll) {
  StateChunk chunk = Head();
  chunk.set_data(std::string(200, 'd'));
  const std::string bytes = chunk.SerializeAsString();
  std::mt19937_64 random(1);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = bytes;
    for (uint64_t n = 1 + random() % 3; n > 0; --n) damaged[random() % damaged.size()] = static_cast<char>(random());
    if (random() % 4 == 0) damaged.resize(random() % damaged.size());
    const absl::StatusOr<StateMessage> message = StateMessage::Parse(InSlices(damaged, 1 + random() % 50));
    if (!message.ok()) {
      EXPECT_TRUE(absl::IsInvalidArgument(message.status()));
      ++refused;
      continue;
    }
    StateChunk expected;
    ASSERT_TRUE(expected.ParseFromString(damaged));
    EXPECT_EQ(Data(*message), expected.data());
    expected.clear_data();
    EXPECT_EQ(message->head().SerializeAsString(), expected.SerializeAsString());
  }
  EXPECT_GT(refused, 1000);
}

TEST(StateMessageTest, AHeadWithoutEndIsRefused) {
  StateChunk chunk;
  chunk.set_boot_id(std::string(100000, 'b'));
  EXPECT_TRUE(absl::IsInvalidArgument(StateMessage::Parse(InSlices(chunk.SerializeAsString(), 5000)).status()));
}

}  // namespace
}  // namespace baton
