#include "gateway/session_opening.h"

#include <algorithm>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "common/rpc/status_mapping.h"
#include "gateway/token_relay.h"

namespace baton {
namespace {

// A worker that takes longer to look something up is not there.
constexpr std::chrono::seconds kPatience{5};

absl::StatusOr<SessionPrefix> ToPrefix(const worker::v1::OpenSessionRequest& request,
                                       const worker::v1::OpenSessionResponse& response, int64_t vocab_size,
                                       const std::shared_ptr<WorkerConnection>& worker) {
  const int64_t tokens = response.tokens_size();
  if (response.position() < 1 || response.position() > tokens || tokens - response.position() > 1) {
    return BrokenContract("a session whose state is not that of its tokens");
  }
  for (const int32_t id : response.tokens()) {
    if (id < 0 || id >= vocab_size) return BrokenContract("a session with tokens outside the vocabulary");
  }
  SessionPrefix prefix;
  prefix.tokens.assign(response.tokens().begin(), response.tokens().end());
  *prefix.source.mutable_key() = request.key();
  prefix.source.set_endpoint(response.endpoint());
  prefix.position = response.position();
  if (response.in_memory()) prefix.worker = worker;
  return prefix;
}

class Opening : public std::enable_shared_from_this<Opening> {
 public:
  Opening(std::vector<std::shared_ptr<WorkerConnection>> workers, const worker::v1::OpenSessionRequest& request,
          int64_t vocab_size, std::chrono::system_clock::time_point deadline,
          std::function<void(absl::StatusOr<SessionPrefix>)> done)
      : workers_(std::move(workers)),
        request_(request),
        vocab_size_(vocab_size),
        deadline_(deadline),
        done_(std::move(done)) {}

  void TryNext() {
    if (next_ == workers_.size()) return done_(SessionExpired());
    const std::shared_ptr<WorkerConnection>& worker = workers_[next_++];
    context_ = std::make_unique<grpc::ClientContext>();
    context_->set_deadline(std::min(deadline_, std::chrono::system_clock::now() + kPatience));
    response_.Clear();
    worker->decode->async()->OpenSession(
        context_.get(), &request_, &response_, [self = shared_from_this(), worker](const grpc::Status& status) {
          if (!status.ok()) return self->TryNext();
          self->done_(ToPrefix(self->request_, self->response_, self->vocab_size_, worker));
        });
  }

 private:
  const std::vector<std::shared_ptr<WorkerConnection>> workers_;
  const worker::v1::OpenSessionRequest request_;
  const int64_t vocab_size_;
  const std::chrono::system_clock::time_point deadline_;
  const std::function<void(absl::StatusOr<SessionPrefix>)> done_;
  size_t next_ = 0;
  std::unique_ptr<grpc::ClientContext> context_;
  worker::v1::OpenSessionResponse response_;
};

}  // namespace

absl::Status SessionExpired() {
  return WithReason(
      absl::NotFoundError("the session cannot be continued: it has expired, was dropped for want of room, "
                          "is another caller's, or its worker is gone; send the whole conversation "
                          "again, without `session`"),
      "SESSION_EXPIRED");
}

void OpenSession(std::vector<std::shared_ptr<WorkerConnection>> workers, const worker::v1::OpenSessionRequest& request,
                 int64_t vocab_size, std::chrono::system_clock::time_point deadline,
                 std::function<void(absl::StatusOr<SessionPrefix>)> done) {
  std::make_shared<Opening>(std::move(workers), request, vocab_size, deadline, std::move(done))->TryNext();
}

}  // namespace baton
