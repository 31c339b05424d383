// Feeds arbitrary bytes, in slices of arbitrary size, to the parser of Decode.Receive's messages.
//
// Input: one byte for the slices' size, then the message. Held: no crash; what is accepted is what protobuf reads.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status_macros.h"
#include "common/rpc/state_message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t slice_bytes = data[0] + 1;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice_bytes) slices.emplace_back(bytes.substr(at, slice_bytes));
  if (slices.empty()) slices.emplace_back(std::string());
  const absl::StatusOr<baton::StateMessage> message =
      baton::StateMessage::Parse(grpc::ByteBuffer(slices.data(), slices.size()));
  if (!message.ok()) return 0;
  baton::worker::v1::StateChunk expected;
  BATON_CHECK(expected.ParseFromString(bytes));
  std::string read;
  for (absl::string_view slice : message->data()) read.append(slice.data(), slice.size());
  BATON_CHECK(read == expected.data());
  return 0;
}
