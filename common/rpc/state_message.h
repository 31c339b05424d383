// One message of Decode.Receive, made and read by hand: rows of K and V go from pages to the network and from the
// network to pages without a protobuf string in between. On the wire it is a StateChunk like any other.
//
//   grpc::ByteBuffer message = MakeStateMessage(head, std::move(frames));     // head: a StateChunk without data
//
//   BATON_ASSIGN_OR_RETURN(StateMessage message, StateMessage::Parse(buffer));
//   message.head().reservation_id();  reader.Feed(message.data());
#pragma once

#include <vector>

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/state/byte_slices.h"

namespace baton {

// `frames` become the message's data: referenced parts are not copied, and their owners are let go when gRPC has no
// more use for them.
grpc::ByteBuffer MakeStateMessage(const worker::v1::StateChunk& head, ByteChain frames);

class StateMessage {
 public:
  // INVALID_ARGUMENT for anything that is not a StateChunk.
  static absl::StatusOr<StateMessage> Parse(const grpc::ByteBuffer& buffer);

  // Everything but `data`.
  const worker::v1::StateChunk& head() const { return head_; }
  // Its `data`, where gRPC put it; valid as long as this lives.
  absl::Span<const absl::string_view> data() const { return data_; }
  size_t data_bytes() const;

 private:
  StateMessage() = default;

  std::vector<grpc::Slice> slices_;
  worker::v1::StateChunk head_;
  std::vector<absl::string_view> data_;
};

}  // namespace baton
