#include "common/rpc/state_message.h"

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

using worker::v1::StateChunk;

// Protocol buffers' encoding of a field: a varint of (number << 3 | wire type), then the value.
constexpr uint32_t kVarint = 0;
constexpr uint32_t kFixed64 = 1;
constexpr uint32_t kLengthDelimited = 2;
constexpr uint32_t kFixed32 = 5;

// Far more than the fields besides `data` take.
constexpr size_t kMaxHeadBytes = size_t{64} << 10;
// Below this a copy is cheaper than keeping track of a reference.
constexpr size_t kSmallSlice = 1024;

void PutVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

// How long a tag or length may be, and any other number.
constexpr int kShortVarint = 5;
constexpr int kVarintBytes = 10;

// Appends the bytes it consumed to `raw`. Absent: cut short, or longer than allowed.
absl::optional<uint64_t> ReadVarint(SliceCursor& cursor, int max_bytes, std::string* raw) {
  uint64_t value = 0;
  for (int shift = 0; shift < 7 * max_bytes; shift += 7) {
    if (cursor.remaining() == 0) return absl::nullopt;
    const auto byte = cursor.Read<uint8_t>();
    raw->push_back(static_cast<char>(byte));
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  return absl::nullopt;
}

absl::Status NotAChunk() { return absl::InvalidArgumentError("the message is no StateChunk"); }

grpc::Slice ReferenceSlice(ByteChain::Part part) {
  const absl::string_view bytes = part.reference;
  auto* owner = new std::shared_ptr<const void>(std::move(part.owner));
  // gRPC does not write to a slice that it sends.
  return grpc::Slice(
      const_cast<char*>(bytes.data()), bytes.size(),
      [](void* owner) { delete static_cast<std::shared_ptr<const void>*>(owner); }, owner);
}

}  // namespace

grpc::ByteBuffer MakeStateMessage(const StateChunk& head, ByteChain frames) {
  BATON_CHECK(head.data().empty());
  // Small parts are gathered up to the next large one.
  std::string gathered = head.SerializeAsString();
  if (!frames.empty()) {
    PutVarint(StateChunk::kDataFieldNumber << 3 | kLengthDelimited, &gathered);
    PutVarint(frames.size(), &gathered);
  }
  std::vector<grpc::Slice> slices;
  const auto flush = [&] {
    if (!gathered.empty()) slices.emplace_back(gathered);
    gathered.clear();
  };
  for (ByteChain::Part& part : frames.parts()) {
    if (part.owner == nullptr || part.reference.size() < kSmallSlice) {
      gathered.append(part.bytes().data(), part.bytes().size());
      continue;
    }
    flush();
    slices.push_back(ReferenceSlice(std::move(part)));
  }
  flush();
  return grpc::ByteBuffer(slices.data(), slices.size());
}

absl::StatusOr<StateMessage> StateMessage::Parse(const grpc::ByteBuffer& buffer) {
  StateMessage message;
  if (!buffer.Valid() || !buffer.Dump(&message.slices_).ok()) return NotAChunk();
  std::vector<absl::string_view> views;
  views.reserve(message.slices_.size());
  for (const grpc::Slice& slice : message.slices_) {
    views.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }

  SliceCursor cursor(views);
  std::string head;
  while (cursor.remaining() > 0) {
    std::string field;
    const absl::optional<uint64_t> tag = ReadVarint(cursor, kShortVarint, &field);
    if (!tag.has_value()) return NotAChunk();
    const auto wire_type = static_cast<uint32_t>(*tag & 7);
    uint64_t length = 0;
    if (wire_type == kVarint) {
      if (!ReadVarint(cursor, kVarintBytes, &field).has_value()) return NotAChunk();
    } else if (wire_type == kLengthDelimited) {
      const absl::optional<uint64_t> value = ReadVarint(cursor, kShortVarint, &field);
      if (!value.has_value()) return NotAChunk();
      length = *value;
    } else if (wire_type == kFixed64 || wire_type == kFixed32) {
      length = wire_type == kFixed64 ? 8 : 4;
    } else {
      return NotAChunk();
    }
    if (length > cursor.remaining()) return NotAChunk();
    if (*tag == (StateChunk::kDataFieldNumber << 3 | kLengthDelimited)) {
      // As for any field that is not repeated, the last one counts.
      message.data_.clear();
      cursor.Take(length, [&](absl::string_view piece) { message.data_.push_back(piece); });
      continue;
    }
    if (head.size() + field.size() + length > kMaxHeadBytes) return NotAChunk();
    head += field;
    cursor.Take(length, [&](absl::string_view piece) { head.append(piece.data(), piece.size()); });
  }
  if (!message.head_.ParseFromString(head)) return NotAChunk();
  return message;
}

size_t StateMessage::data_bytes() const {
  size_t bytes = 0;
  for (absl::string_view slice : data_) bytes += slice.size();
  return bytes;
}

}  // namespace baton
