#include "prefill/session_fetch.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <utility>

#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/status_mapping.h"
#include "common/state/state_codec.h"

namespace baton {
namespace {

using worker::v1::StateChunk;

// Deletes itself.
class Fetch final : public grpc::ClientReadReactor<StateChunk> {
 public:
  Fetch(const std::shared_ptr<grpc::Channel>& channel, const Fingerprint& fingerprint, SequenceState state,
        std::function<bool()> cancelled, SessionFetched done)
      : stub_(worker::v1::Decode::NewStub(channel)),
        state_(std::move(state)),
        reader_(fingerprint, &state_),
        cancelled_(std::move(cancelled)),
        done_(std::move(done)) {}

  void Start(const Fingerprint& fingerprint, const worker::v1::SessionSource& source,
             std::chrono::system_clock::time_point deadline) {
    request_.set_fingerprint(fingerprint.ToBytes());
    *request_.mutable_key() = source.key();
    context_.set_deadline(deadline);
    stub_->async()->ReadSession(&context_, &request_, this);
    StartRead(&chunk_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (status_.ok()) status_ = reader_.Feed(chunk_.data());
    if (status_.ok() && cancelled_()) status_ = absl::CancelledError("the caller went away");
    if (!status_.ok()) context_.TryCancel();
    StartRead(&chunk_);
  }

  void OnDone(const grpc::Status& status) override {
    if (status_.ok()) status_ = FromGrpcStatus(status);
    if (status_.ok() && !reader_.committed()) status_ = absl::DataLossError("the kept state is cut short");
    SessionFetched done = std::move(done_);
    if (status_.ok()) {
      SequenceState state = std::move(state_);
      delete this;
      done(std::move(state));
      return;
    }
    const absl::Status failure = status_;
    delete this;
    done(failure);
  }

 private:
  const std::unique_ptr<worker::v1::Decode::Stub> stub_;
  SequenceState state_;
  StateReader reader_;
  const std::function<bool()> cancelled_;
  SessionFetched done_;
  grpc::ClientContext context_;
  worker::v1::ReadSessionRequest request_;
  StateChunk chunk_;
  absl::Status status_;
};

}  // namespace

void FetchSession(const std::shared_ptr<grpc::Channel>& channel, const Fingerprint& fingerprint,
                  const worker::v1::SessionSource& source, std::chrono::system_clock::time_point deadline,
                  SequenceState state, std::function<bool()> cancelled, SessionFetched done) {
  (new Fetch(channel, fingerprint, std::move(state), std::move(cancelled), std::move(done)))
      ->Start(fingerprint, source, deadline);
}

}  // namespace baton
