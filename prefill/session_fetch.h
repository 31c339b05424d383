// Reads the kept state of a session from the decode worker that has it, into memory reserved beforehand.
//
//   FetchSession(channel, fingerprint, source, deadline, std::move(state), cancelled,
//                [=](absl::StatusOr<SequenceState> kept) { ... });
//
// The callback comes exactly once, on one of gRPC's threads, with the state as it was kept, or with the reason why
// there is none; the memory of a state that did not arrive is free by then. Bytes are checked as those of any handoff
// are.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>

#include <grpcpp/channel.h>

#include "absl/status/statusor.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"

namespace baton {

using SessionFetched = std::function<void(absl::StatusOr<SequenceState>)>;

// `cancelled`: looked at between messages; nobody wants the state any more.
void FetchSession(const std::shared_ptr<grpc::Channel>& channel, const Fingerprint& fingerprint,
                  const worker::v1::SessionSource& source, std::chrono::system_clock::time_point deadline,
                  SequenceState state, std::function<bool()> cancelled, SessionFetched done);

}  // namespace baton
