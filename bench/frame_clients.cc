#ifdef BATON_HAVE_NGHTTP2
#include "bench/frame_clients.h"

#include "absl/strings/str_cat.h"

namespace baton {
namespace {

// More than any stream gets.
constexpr int kEndless = 1 << 28;

}  // namespace

FrameClients::FrameClients(FrameClientsOptions options) : options_(std::move(options)) {}

std::string FrameClients::Request() const {
  std::vector<int32_t> prompt;
  prompt.reserve(static_cast<size_t>(options_.prompt_tokens));
  for (int i = 0; i < options_.prompt_tokens; ++i) prompt.push_back(TokenAt(i));
  if (!options_.through_gateway) {
    worker::v1::DecodeRequest request;
    request.mutable_tokens()->Add(prompt.begin(), prompt.end());
    request.mutable_stopping()->set_max_new_tokens(kEndless);
    request.set_compute_prompt(true);
    return request.SerializeAsString();
  }
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
  request.mutable_stopping()->set_max_new_tokens(kEndless);
  request.mutable_stopping()->set_ignore_eos(true);
  return request.SerializeAsString();
}

void FrameClients::Open(const std::vector<FrameConnection*>& connections, int streams) {
  const std::string path =
      options_.through_gateway ? "/baton.v1.Inference/GenerateStream" : "/baton.worker.v1.Decode/Run";
  const std::string request = Request();
  for (int i = 0; i < streams; ++i) {
    FrameConnection* const connection = connections[static_cast<size_t>(i) % connections.size()];
    streams_[{connection, connection->Request(path, request)}].next = options_.prompt_tokens;
  }
}

void FrameClients::OnMessage(FrameConnection& connection, int32_t id, absl::string_view message) {
  Stream& stream = streams_[{&connection, id}];
  if (options_.through_gateway) {
    TakeFromGateway(stream, message);
  } else {
    TakeFromWorker(stream, message);
  }
}

void FrameClients::TakeFromGateway(Stream& stream, absl::string_view message) {
  v1::GenerateEvent& event = generate_event_;
  if (!event.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
    stream.problem = "a message that is none";
  }
  if (event.has_delta()) {
    for (const int32_t id : event.delta().token_ids()) Check(stream, id);
    stream.text_bytes += event.delta().text().size();
    Count(stream, event.delta().token_ids_size());
  }
  if (!event.has_finished()) return;
  stream.finished = true;
  const int64_t told = event.finished().usage().completion_tokens();
  if (told != stream.next - options_.prompt_tokens) stream.problem = "a stream ended with tokens missing";
  if (stream.text_bytes == 0) stream.problem = "a stream without text";
}

void FrameClients::TakeFromWorker(Stream& stream, absl::string_view message) {
  worker::v1::DecodeEvent& event = decode_event_;
  if (!event.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
    stream.problem = "a message that is none";
  }
  if (event.has_first_token()) {
    Check(stream, event.first_token().id());
    Count(stream, 1);
  }
  for (const auto& chunk : event.progress().tokens()) {
    for (const int32_t id : chunk.ids()) Check(stream, id);
    Count(stream, chunk.ids_size());
  }
  if (!event.progress().done().empty()) stream.finished = true;
}

void FrameClients::Check(Stream& stream, int32_t id) {
  if (id != TokenAt(stream.next)) stream.problem = absl::StrCat("another token at position ", stream.next);
  ++stream.next;
}

void FrameClients::Count(Stream& stream, int64_t count) {
  if (count == 0) return;
  tokens_ += count;
  ++messages_;
  if (!std::exchange(stream.begun, true)) ++begun_;
}

void FrameClients::OnClose(FrameConnection& connection, int32_t id, int status, const std::string& message) {
  const auto found = streams_.find({&connection, id});
  if (found == streams_.end()) return;
  Stream& stream = found->second;
  if (status != 0) stream.problem = absl::StrCat("gRPC status ", status, ": ", message);
  if (stream.problem.empty() && !stream.finished) stream.problem = "a stream ended without saying why";
  if (stream.problem.empty()) {
    ++ended_well_;
  } else {
    absl::MutexLock lock(&mutex_);
    if (problem_.empty()) problem_ = stream.problem;
    ++ended_badly_;
  }
  streams_.erase(found);
}

void FrameClients::Drop(FrameConnection* connection) {
  std::vector<int32_t> lost;
  for (const auto& [key, stream] : streams_) {
    if (key.first == connection) lost.push_back(key.second);
  }
  for (const int32_t id : lost) OnClose(*connection, id, -1, "the connection broke");
}

std::string FrameClients::problem() const {
  absl::MutexLock lock(&mutex_);
  return problem_;
}

}  // namespace baton
#endif
