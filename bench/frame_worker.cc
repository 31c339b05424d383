#ifdef BATON_HAVE_NGHTTP2
#include "bench/frame_worker.h"

#include <algorithm>

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;

// As the real worker: messages in line at which further tokens wait for a common one.
constexpr size_t kQueuedMessagesWhenBehind = 2;
constexpr size_t kTokenizerPieceBytes = 1 << 20;

}  // namespace

FrameWorker::FrameWorker(InstantWorkerModel model, std::string endpoint)
    : model_(std::move(model)),
      endpoint_(std::move(endpoint)),
      info_(InstantWorkerInfo(model_, worker::v1::WorkerInfo::DECODE, /*computes_prompts=*/true)) {}

void FrameWorker::OnMessage(FrameConnection& connection, int32_t id, absl::string_view message) {
  const std::string& path = connection.path(id);
  connection.Respond(id);
  if (path == "/baton.worker.v1.Worker/GetInfo") {
    connection.Send(id, info_.SerializeAsString());
    return connection.End(id);
  }
  if (path == "/baton.worker.v1.Worker/GetTokenizer") return SendTokenizer(connection, id);
  if (path == "/baton.worker.v1.Worker/WatchLoad") {
    watches_.insert({&connection, id});
    return ReportLoad();
  }
  DecodeRequest request;
  if (path != "/baton.worker.v1.Decode/Run" ||
      !request.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
    return connection.End(id);
  }
  Begin(connection, id, request);
}

void FrameWorker::SendTokenizer(FrameConnection& connection, int32_t id) {
  const std::string& bytes = model_.tokenizer_bytes;
  for (size_t at = 0; at < bytes.size(); at += kTokenizerPieceBytes) {
    worker::v1::TokenizerPiece piece;
    piece.set_data(bytes.substr(at, kTokenizerPieceBytes));
    connection.Send(id, piece.SerializeAsString());
  }
  connection.End(id);
}

void FrameWorker::Begin(FrameConnection& connection, int32_t id, const DecodeRequest& request) {
  DecodeEvent event;
  worker::v1::Reservation* const reservation = event.mutable_reservation();
  reservation->set_reservation_id(++last_reservation_);
  reservation->set_generation(1);
  reservation->set_boot_id(info_.boot_id());
  reservation->set_endpoint(endpoint_);
  reservation->set_bytes(1);
  connection.Send(id, event.SerializeAsString());
  streams_[{&connection, id}] = {&connection, id, request.tokens_size() + 1, {}};
  ++tokens_sent_;
  ++messages_sent_;
  // Else it is the prefill worker's.
  if (!request.compute_prompt()) return;
  event.mutable_first_token()->set_id(TokenAt(request.tokens_size()));
  connection.Send(id, event.SerializeAsString());
}

void FrameWorker::OnClose(FrameConnection& connection, int32_t id, int, const std::string&) {
  streams_.erase({&connection, id});
  watches_.erase({&connection, id});
}

void FrameWorker::Drop(FrameConnection* connection) {
  const Key first = {connection, INT32_MIN};
  const Key last = {connection, INT32_MAX};
  streams_.erase(streams_.lower_bound(first), streams_.upper_bound(last));
  watches_.erase(watches_.lower_bound(first), watches_.upper_bound(last));
}

void FrameWorker::Send(Stream& stream) {
  stream.unsent.SerializeToString(&scratch_);
  stream.connection->Send(stream.id, scratch_);
  stream.unsent.Clear();
  ++messages_sent_;
}

void FrameWorker::StepAll() {
  for (auto& [key, stream] : streams_) {
    worker::v1::Progress* const progress = stream.unsent.mutable_progress();
    if (progress->tokens().empty()) progress->add_tokens()->set_position(stream.position);
    progress->mutable_tokens(0)->add_ids(TokenAt(stream.position));
    ++stream.position;
    ++tokens_sent_;
    // As DecodeEngine::Flush.
    if (stream.connection->queued(stream.id) < kQueuedMessagesWhenBehind) Send(stream);
  }
}

void FrameWorker::EndAll() {
  for (auto& [key, stream] : streams_) {
    stream.unsent.mutable_progress()->add_done()->set_reason(worker::v1::LENGTH);
    Send(stream);
    stream.connection->End(stream.id);
  }
  streams_.clear();
}

void FrameWorker::ReportLoad() {
  worker::v1::Load load;
  load.set_running(static_cast<int64_t>(streams_.size()));
  load.set_state_bytes_total(info_.state_bytes_total());
  load.set_tokens_done(tokens_sent_);
  for (const auto& [connection, id] : watches_) connection->Send(id, load.SerializeAsString());
}

}  // namespace baton
#endif
