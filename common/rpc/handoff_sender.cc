#include "common/rpc/handoff_sender.h"

#include <grpcpp/generic/generic_stub.h>

#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "baton/worker/v1/worker.grpc.pb.h"  // how gRPC serializes the answers
#include "common/base/status_macros.h"
#include "common/rpc/state_message.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/trace_metadata.h"

namespace baton {
namespace {

using worker::v1::ReceiveResponse;
using worker::v1::StateChunk;

constexpr char kReceiveMethod[] = "/baton.worker.v1.Decode/Receive";

// Frames of one message, unless a single one is longer. Messages that only name ranges cost little but their number.
constexpr int64_t kInlineMessageBytes = kStateFrameTargetBytes;
constexpr int64_t kSharedMessageBytes = int64_t{1} << 20;
// More than any header or commit takes.
constexpr int64_t kHeaderCredit = 16 << 10;
constexpr int64_t kCommitCredit = 4 << 10;
constexpr int64_t kSampleCredit = 256;

}  // namespace

worker::v1::StateChunk HeadOf(const worker::v1::Handoff& target) {
  StateChunk head;
  head.set_reservation_id(target.reservation_id());
  head.set_generation(target.generation());
  head.set_boot_id(target.boot_id());
  return head;
}

HandoffSender::HandoffSender(std::shared_ptr<DecodePeer> peer, const StateChunk& head, HandoffState state,
                             const HandoffSenderOptions& options, std::function<void()> wake)
    : peer_(std::move(peer)),
      head_(head),
      write_delay_(options.write_delay),
      wake_(std::move(wake)),
      offer_shared_memory_(options.offer_shared_memory),
      state_(std::move(state)),
      frames_(state_.fingerprint, *state_.layout, state_.final_position, options.encoding, state_.samples) {
  context_.set_deadline(options.deadline);
  if (!options.request_id.empty()) context_.AddMetadata("x-request-id", options.request_id);
  AddTraceContext(options.span, &context_);
}

std::shared_ptr<HandoffSender> HandoffSender::Start(std::shared_ptr<DecodePeer> peer, const StateChunk& head,
                                                    HandoffState state, const HandoffSenderOptions& options,
                                                    std::function<void()> wake) {
  std::shared_ptr<HandoffSender> sender(
      new HandoffSender(std::move(peer), head, std::move(state), options, std::move(wake)));
  sender->account_.emplace(&sender->peer_->credit, [weak = std::weak_ptr<HandoffSender>(sender)] {
    if (const std::shared_ptr<HandoffSender> self = weak.lock()) self->OnCredit();
  });
  grpc::TemplatedGenericStub<grpc::ByteBuffer, ReceiveResponse> stub(sender->peer_->channel);
  stub.PrepareBidiStreamingCall(&sender->context_, kReceiveMethod, grpc::StubOptions(), sender.get());
  absl::MutexLock lock(&sender->mutex_);
  sender->self_ = sender;
  sender->StartRead(&sender->answer_);
  sender->StartCall();
  sender->MaybeWrite();
  return sender;
}

void HandoffSender::Send(std::vector<StatePiece> pieces) {
  absl::MutexLock lock(&mutex_);
  BATON_CHECK(first_tokens_.empty());
  if (closed_) return;
  for (StatePiece& piece : pieces) queue_.push_back(std::move(piece));
  MaybeWrite();
}

void HandoffSender::Commit(std::vector<FirstTokenRecord> first_tokens) {
  absl::MutexLock lock(&mutex_);
  BATON_CHECK(first_tokens_.empty());
  first_tokens_ = std::move(first_tokens);
  MaybeWrite();
}

void HandoffSender::Cancel() {
  {
    absl::MutexLock lock(&mutex_);
    if (over()) return;
    CloseQueue();
  }
  context_.TryCancel();
}

int64_t HandoffSender::queued_bytes() const {
  absl::MutexLock lock(&mutex_);
  int64_t bytes = writing_ ? message_bytes_ : 0;
  for (const StatePiece& piece : queue_) bytes += static_cast<int64_t>(frames_.FrameBytes(piece));
  return bytes;
}

HandoffOutcome HandoffSender::outcome() const {
  absl::MutexLock lock(&mutex_);
  return outcome_;
}

void HandoffSender::OnCredit() {
  bool asked;
  {
    absl::MutexLock lock(&mutex_);
    asked = MaybeWrite();
  }
  if (!asked) account_->Pass();
}

bool HandoffSender::MaybeWrite() {
  if (closed_ || writing_ || half_closed_) return false;
  if (commit_written_) {
    half_closed_ = true;
    StartWritesDone();
    return false;
  }
  const Plan plan = PlanMessage();
  if (plan.bytes == 0) return false;
  if (!account_->Take(plan.bytes)) return true;
  writing_ = true;
  MakeMessage(plan);
  if (write_delay_ > absl::ZeroDuration()) {
    // The alarm keeps its callback, so a strong reference would be a cycle.
    delay_.Set(absl::ToChronoTime(absl::Now() + write_delay_), [weak = std::weak_ptr<HandoffSender>(self_)](bool ok) {
      if (const std::shared_ptr<HandoffSender> self = weak.lock()) self->OnDelayOver();
    });
  } else {
    WriteMessage();
  }
  return true;
}

HandoffSender::Plan HandoffSender::PlanMessage() const {
  const int64_t most = shared_memory_ ? kSharedMessageBytes : kInlineMessageBytes;
  Plan plan;
  plan.header = !header_written_;
  if (plan.header) plan.bytes += kHeaderCredit;
  int64_t pieces_bytes = 0;
  for (const StatePiece& piece : queue_) {
    const auto bytes = static_cast<int64_t>(frames_.FrameBytes(piece));
    if (pieces_bytes > 0 && pieces_bytes + bytes > most) break;
    pieces_bytes += bytes;
    ++plan.pieces;
  }
  plan.bytes += pieces_bytes;
  plan.commit = !first_tokens_.empty() && plan.pieces == queue_.size();
  if (plan.commit) plan.bytes += kCommitCredit + kSampleCredit * static_cast<int64_t>(first_tokens_.size());
  return plan;
}

void HandoffSender::MakeMessage(const Plan& plan) {
  StateChunk head;
  ByteChain frames;
  if (plan.header) {
    header_written_ = true;
    head = head_;
    if (offer_shared_memory_) {
      if (const absl::optional<SharedMemoryName> name = peer_->memory.Offer()) {
        head.mutable_offer()->set_process(name->process);
        head.mutable_offer()->set_file(name->descriptor);
        head.mutable_offer()->set_nonce(name->nonce);
        head.mutable_offer()->set_bytes(static_cast<uint64_t>(name->bytes));
      }
    }
    frames_.WriteHeader(&frames);
  }
  for (size_t i = 0; i < plan.pieces; ++i) {
    frames_.WritePiece(queue_.front(), state_.state, &frames);
    queue_.pop_front();
  }
  if (plan.commit) {
    commit_written_ = true;
    frames_.WriteCommit(first_tokens_, &frames);
    state_.state.reset();
  }
  message_bytes_ = static_cast<int64_t>(frames.size());
  message_credit_ = plan.bytes;
  if (shared_memory_ && PutInSharedMemory(frames, plan.bytes, &head)) {
    message_credit_ = 0;
    frames = ByteChain();
  }
  message_ = MakeStateMessage(head, std::move(frames));
}

bool HandoffSender::PutInSharedMemory(const ByteChain& frames, int64_t credit, StateChunk* head) {
  int64_t offset;
  char* to = peer_->memory.Allocate(static_cast<int64_t>(frames.size()), &offset);
  if (to == nullptr) return false;
  for (const ByteChain::Part& part : frames.parts()) {
    std::memcpy(to, part.bytes().data(), part.bytes().size());
    to += part.bytes().size();
  }
  in_flight_.push_back({offset, static_cast<int64_t>(frames.size()), credit});
  worker::v1::SharedRange* range = head->add_shared();
  range->set_offset(static_cast<uint64_t>(offset));
  range->set_length(frames.size());
  outcome_.shared_bytes += static_cast<int64_t>(frames.size());
  return true;
}

void HandoffSender::WriteMessage() {
  if (outcome_.first_write == absl::InfiniteFuture()) outcome_.first_write = absl::Now();
  StartWrite(&message_);
}

void HandoffSender::OnDelayOver() {
  absl::MutexLock lock(&mutex_);
  // The call may have ended meanwhile: then nothing holds it open for a write.
  if (closed_) return;
  WriteMessage();
}

void HandoffSender::OnWriteDone(bool ok) {
  int64_t credit;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    message_.Clear();
    credit = std::exchange(message_credit_, 0);
    if (ok) outcome_.bytes += message_bytes_;
    if (!ok) CloseQueue();
  }
  // Before it asks for more, so that others get their turn.
  if (credit > 0) account_->Return(credit);
  absl::MutexLock lock(&mutex_);
  MaybeWrite();
}

void HandoffSender::OnReadDone(bool ok) {
  // Takes the memory, which may take a while: before the lock that the engine may want.
  const bool shared = ok && offer_shared_memory_ &&
                      answer_.shared_memory() == ReceiveResponse::SHARED_MEMORY_ACCEPTED && peer_->memory.Accepted();
  int64_t credit = 0;
  {
    absl::MutexLock lock(&mutex_);
    shared_memory_ |= shared;
    if (ok) {
      credit = TakeAnswer();
      StartRead(&answer_);
    } else {
      // The end of the call: there is nothing left to write.
      CloseQueue();
    }
  }
  if (credit > 0) account_->Return(credit);
  absl::MutexLock lock(&mutex_);
  MaybeWrite();
}

int64_t HandoffSender::TakeAnswer() {
  if (answer_.position() > 0) outcome_.position = answer_.position();
  if (answer_.shared_memory() == ReceiveResponse::SHARED_MEMORY_REFUSED) {
    peer_->memory.Refused();
  }
  int64_t credit = 0;
  while (!in_flight_.empty() &&
         answer_.shared_bytes_read() >= shared_bytes_read_ + static_cast<uint64_t>(in_flight_.front().bytes)) {
    const InFlight read = in_flight_.front();
    in_flight_.pop_front();
    shared_bytes_read_ += static_cast<uint64_t>(read.bytes);
    peer_->memory.Free(read.offset, read.bytes);
    credit += read.credit;
  }
  return credit;
}

void HandoffSender::CloseQueue() {
  closed_ = true;
  queue_.clear();
  state_.state.reset();
}

void HandoffSender::OnDone(const grpc::Status& status) {
  std::shared_ptr<HandoffSender> self;
  {
    absl::MutexLock lock(&mutex_);
    CloseQueue();
    message_.Clear();
    // Nobody reads them any more but a receiver whose state nobody wants.
    for (const InFlight& range : in_flight_) peer_->memory.Free(range.offset, range.bytes);
    in_flight_.clear();
    outcome_.status = FromGrpcStatus(status);
    outcome_.ended = absl::Now();
    self = std::move(self_);
  }
  account_->Return(account_->held());
  over_.store(true, std::memory_order_release);
  wake_();
}

}  // namespace baton
