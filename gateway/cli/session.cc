#include "gateway/cli/session.h"

#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/exit_code.h"

namespace baton::cli {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
// A vanished gateway is noticed while an answer is awaited; what stands between may mind more frequent pings.
constexpr int kKeepaliveMs = 30000;
// How often waiting for a connection looks whether Ctrl-C was pressed.
constexpr absl::Duration kConnectPoll = absl::Milliseconds(50);

std::chrono::system_clock::time_point DeadlineIn(absl::Duration duration) {
  return absl::ToChronoTime(absl::Now() + duration);
}

bool LooksLikeAddress(const std::string& text) {
  if (absl::StartsWith(text, "unix:") || absl::StrContains(text, "://")) return true;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) return false;
  return text.find_first_not_of("0123456789", colon + 1) == std::string::npos &&
         text.find_first_of(" \t\r\n/") == std::string::npos;
}

}  // namespace

absl::Status Session::Connect() {
  if (!LooksLikeAddress(options.gateway)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gateway: \"", options.gateway, "\" is not HOST:PORT, for example 127.0.0.1:7000"));
  }
  if (channel_ == nullptr) {
    ChannelOptions channel_options;
    channel_options.keepalive_ms = kKeepaliveMs;
    channel_ = NewChannel(options.gateway, channel_options);
    inference_ = baton::v1::Inference::NewStub(channel_);
    fleet_ = baton::v1::Fleet::NewStub(channel_);
  }
  absl::Duration patience = kConnectTimeout;
  if (options.timeout_seconds > 0) patience = std::min(patience, absl::Seconds(options.timeout_seconds));
  const absl::Time give_up = absl::Now() + patience;

  Interrupt::Scope scope(interrupt_);
  grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
  bool tried = state == GRPC_CHANNEL_CONNECTING;
  while (state != GRPC_CHANNEL_READY) {
    if (interrupt_.raised()) return interrupt_.status();
    // A failure from before this call is stale: the channel gets one more try.
    const bool failed = state == GRPC_CHANNEL_SHUTDOWN || (state == GRPC_CHANNEL_TRANSIENT_FAILURE && tried);
    const bool late = absl::Now() >= give_up;
    if (failed || late) {
      std::string message = absl::StrCat("cannot reach a gateway at ", options.gateway);
      if (!failed) absl::StrAppend(&message, " within ", absl::FormatDuration(patience));
      return WithReason(absl::UnavailableError(message), kGatewayUnreachable);
    }
    if (state == GRPC_CHANNEL_CONNECTING || state == GRPC_CHANNEL_IDLE) tried = true;
    channel_->WaitForStateChange(state, DeadlineIn(kConnectPoll));
    state = channel_->GetState(true);
  }
  return absl::OkStatus();
}

absl::Status Session::Call(absl::FunctionRef<grpc::Status(grpc::ClientContext*)> call, absl::Duration default_timeout) {
  grpc::ClientContext context;
  const absl::Duration timeout = options.timeout_seconds > 0 ? absl::Seconds(options.timeout_seconds) : default_timeout;
  if (timeout != absl::InfiniteDuration()) context.set_deadline(DeadlineIn(timeout));
  Interrupt::CancelScope scope(interrupt_, &context);
  return Explain(call(&context));
}

absl::Status Session::Explain(const grpc::Status& grpc_status) {
  absl::Status status = FromGrpcStatus(grpc_status);
  if (status.ok()) return status;
  if (status.code() == absl::StatusCode::kCancelled && interrupt_.raised()) return interrupt_.status();
  if (!ErrorReason(status).empty()) return status;
  if (status.code() == absl::StatusCode::kUnavailable) {
    // The gateway gives a reason with each UNAVAILABLE of its own; this one is the connection's.
    return WithReason(absl::UnavailableError(absl::StrCat("the connection to the gateway at ", options.gateway,
                                                          " was lost (", status.message(), ")")),
                      kGatewayUnreachable);
  }
  if (status.code() == absl::StatusCode::kUnimplemented) {
    return WithReason(
        absl::UnimplementedError(absl::StrCat("the server at ", options.gateway, " does not serve Baton's public API")),
        kNotAGateway);
  }
  if (status.code() == absl::StatusCode::kDeadlineExceeded && options.timeout_seconds > 0) {
    return absl::DeadlineExceededError(
        absl::StrCat("no answer within ", absl::FormatDuration(absl::Seconds(options.timeout_seconds))));
  }
  return status;
}

}  // namespace baton::cli
