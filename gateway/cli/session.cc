#include "gateway/cli/session.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/exit_code.h"

namespace baton::cli {
namespace {

constexpr absl::Duration kProblemTimeout = absl::Seconds(1);
constexpr size_t kMaxKeyFileBytes = 4096;
constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
// A vanished gateway is noticed while an answer is awaited; what stands between may mind more frequent pings.
constexpr int kKeepaliveMs = 30000;
// How often waiting for a connection looks whether Ctrl-C was pressed.
constexpr absl::Duration kConnectPoll = absl::Milliseconds(50);

std::chrono::system_clock::time_point DeadlineIn(absl::Duration duration) {
  return absl::ToChronoTime(absl::Now() + duration);
}

// In this program's words: its certificate is a client's.
absl::Status CheckTls(const TlsFlags& tls) {
  if (tls.client_cert.empty() != tls.client_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  if (tls.ca.empty() && !(tls.client_cert.empty() && tls.server_name.empty())) {
    return absl::InvalidArgumentError(absl::StrCat(tls.client_cert.empty() ? "--tls-server-name" : "--tls-cert",
                                                   " needs --tls-ca: without it TLS is not used"));
  }
  return absl::OkStatus();
}

bool LooksLikeAddress(const std::string& text) {
  if (absl::StartsWith(text, "unix:") || absl::StrContains(text, "://")) return true;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) return false;
  return text.find_first_not_of("0123456789", colon + 1) == std::string::npos &&
         text.find_first_of(" \t\r\n/") == std::string::npos;
}

}  // namespace

absl::StatusOr<std::string> Session::ReadApiKey() const {
  std::string key = options.api_key;
  std::string source = "--api-key (or BATON_API_KEY)";
  if (!options.api_key_file.empty()) {
    source = absl::StrCat("--api-key-file ", options.api_key_file);
    BATON_ASSIGN_OR_RETURN(key, ReadFileOrPipe(options.api_key_file, kMaxKeyFileBytes));
    absl::StripTrailingAsciiWhitespace(&key);
    if (key.empty()) return absl::InvalidArgumentError(absl::StrCat(source, " is empty: it should hold the key alone"));
  }
  // Anything else could not travel as metadata.
  if (!std::all_of(key.begin(), key.end(), [](char c) { return absl::ascii_isgraph(c); })) {
    return absl::InvalidArgumentError(absl::StrCat(source, " is no API key: it has spaces or control characters"));
  }
  return key;
}

std::string Session::ConnectionProblem() {
  if (options.tls.ca.empty()) return "";
  grpc::ClientContext context;
  context.set_deadline(DeadlineIn(kProblemTimeout));
  v1::ListModelsResponse response;
  const grpc::Status status = inference_->ListModels(&context, {}, &response);
  return status.ok() ? "" : absl::StrCat(" by TLS (", status.error_message(), ")");
}

absl::Status Session::Connect() {
  if (!LooksLikeAddress(options.gateway)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gateway: \"", options.gateway, "\" is not HOST:PORT, for example 127.0.0.1:7000"));
  }
  if (channel_ == nullptr) {
    BATON_ASSIGN_OR_RETURN(api_key_, ReadApiKey());
    ChannelOptions channel_options;
    channel_options.keepalive_ms = kKeepaliveMs;
    channel_options.within_fleet = false;
    BATON_RETURN_IF_ERROR(CheckTls(options.tls));
    BATON_ASSIGN_OR_RETURN(tls_, TlsCredentials::Create(options.tls));
    channel_ = NewChannel(options.gateway, tls_->Secure(channel_options));
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
      absl::StrAppend(&message, ConnectionProblem());
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
  if (!api_key_.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", api_key_));
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
