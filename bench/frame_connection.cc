#ifdef BATON_HAVE_NGHTTP2
#include "bench/frame_connection.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/base/status_macros.h"

namespace baton {
namespace {

constexpr int32_t kWindowBytes = 1 << 24;
constexpr size_t kPrefixBytes = 5;
constexpr size_t kReadBytes = 256 << 10;
// A socket that takes no more is asked again later.
constexpr size_t kMaxOutBytes = 1 << 20;

nghttp2_nv Header(absl::string_view name, absl::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

void AppendMessage(absl::string_view message, std::string* to) {
  const auto size = static_cast<uint32_t>(message.size());
  const char prefix[kPrefixBytes] = {0, static_cast<char>(size >> 24), static_cast<char>(size >> 16),
                                     static_cast<char>(size >> 8), static_cast<char>(size)};
  to->append(prefix, kPrefixBytes);
  to->append(message.data(), message.size());
}

size_t MessageBytes(const char* prefix) {
  const auto byte = [prefix](int i) { return static_cast<size_t>(static_cast<unsigned char>(prefix[i])); };
  return byte(1) << 24 | byte(2) << 16 | byte(3) << 8 | byte(4);
}

}  // namespace

FrameConnection::FrameConnection(int fd, Side side, Handler* handler) : fd_(fd), side_(side), handler_(handler) {
  nghttp2_session_callbacks* callbacks;
  BATON_CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, &OnHeader);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, &OnData);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, &OnStreamClose);
  const int made = side == Side::kClient ? nghttp2_session_client_new(&session_, callbacks, this)
                                         : nghttp2_session_server_new(&session_, callbacks, this);
  BATON_CHECK(made == 0);
  nghttp2_session_callbacks_del(callbacks);
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1 << 20},
                                             {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindowBytes}};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, 2);
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindowBytes);
}

FrameConnection::~FrameConnection() {
  nghttp2_session_del(session_);
  close(fd_);
}

int32_t FrameConnection::Request(const std::string& path, absl::string_view message) {
  const nghttp2_nv headers[] = {Header(":method", "POST"),
                                Header(":scheme", "http"),
                                Header(":path", path),
                                Header(":authority", "bench"),
                                Header("te", "trailers"),
                                Header("content-type", "application/grpc"),
                                Header("user-agent", "bench_gateway")};
  nghttp2_data_provider provider = {};
  provider.read_callback = &ReadData;
  const int32_t id = nghttp2_submit_request(session_, nullptr, headers, std::size(headers), &provider, nullptr);
  BATON_CHECK(id > 0);
  Stream& stream = streams_[id];
  AppendMessage(message, &stream.out);
  stream.queued = 1;
  stream.ending = true;
  return id;
}

void FrameConnection::Respond(int32_t id) {
  const nghttp2_nv headers[] = {Header(":status", "200"), Header("content-type", "application/grpc")};
  nghttp2_data_provider provider = {};
  provider.read_callback = &ReadData;
  nghttp2_submit_response(session_, id, headers, std::size(headers), &provider);
}

void FrameConnection::Send(int32_t id, absl::string_view message) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  Stream& stream = found->second;
  AppendMessage(message, &stream.out);
  ++stream.queued;
  if (std::exchange(stream.deferred, false)) nghttp2_session_resume_data(session_, id);
}

void FrameConnection::End(int32_t id) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  found->second.ending = true;
  if (std::exchange(found->second.deferred, false)) nghttp2_session_resume_data(session_, id);
}

size_t FrameConnection::queued(int32_t id) const {
  const auto found = streams_.find(id);
  return found == streams_.end() ? 0 : found->second.queued;
}

const std::string& FrameConnection::path(int32_t id) const {
  static const std::string* const none = new std::string;
  const auto found = streams_.find(id);
  return found == streams_.end() ? *none : found->second.path;
}

ssize_t FrameConnection::ReadData(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t length, uint32_t* flags,
                                  nghttp2_data_source*, void* user) {
  FrameConnection* const self = Of(user);
  Stream& stream = self->streams_[id];
  const size_t left = stream.out.size() - stream.taken;
  const size_t given = std::min(left, length);
  std::memcpy(buffer, stream.out.data() + stream.taken, given);
  stream.taken += given;
  if (given == left) {
    stream.out.clear();
    stream.taken = 0;
    stream.queued = 0;
    if (stream.ending) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      if (self->side_ == Side::kServer) {
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        const nghttp2_nv trailers[] = {Header("grpc-status", "0")};
        nghttp2_submit_trailer(session, id, trailers, std::size(trailers));
      }
    } else if (given == 0) {
      stream.deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
  }
  return static_cast<ssize_t>(given);
}

int FrameConnection::OnHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                              const uint8_t* value, size_t value_length, uint8_t, void* user) {
  Stream& stream = Of(user)->streams_[frame->hd.stream_id];
  const absl::string_view key(reinterpret_cast<const char*>(name), name_length);
  const std::string text(reinterpret_cast<const char*>(value), value_length);
  if (key == ":path") stream.path = text;
  if (key == "grpc-status") stream.status = std::atoi(text.c_str());
  if (key == "grpc-message") stream.status_message = text;
  return 0;
}

int FrameConnection::OnData(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t length, void* user) {
  FrameConnection* const self = Of(user);
  absl::string_view bytes(reinterpret_cast<const char*>(data), length);
  std::string& in = self->streams_[id].in;
  // Nearly always frames hold whole messages.
  const bool copied = !in.empty();
  if (copied) {
    in.append(bytes.data(), bytes.size());
    bytes = in;
  }
  size_t used = 0;
  while (bytes.size() - used >= kPrefixBytes) {
    const size_t size = MessageBytes(bytes.data() + used);
    if (bytes.size() - used < kPrefixBytes + size) break;
    self->handler_->OnMessage(*self, id, bytes.substr(used + kPrefixBytes, size));
    used += kPrefixBytes + size;
  }
  if (copied) {
    in.erase(0, used);
  } else {
    in.assign(bytes.data() + used, bytes.size() - used);
  }
  return 0;
}

int FrameConnection::OnStreamClose(nghttp2_session*, int32_t id, uint32_t, void* user) {
  FrameConnection* const self = Of(user);
  const auto found = self->streams_.find(id);
  if (found == self->streams_.end()) return 0;
  const Stream stream = std::move(found->second);
  self->streams_.erase(found);
  self->handler_->OnClose(*self, id, stream.status, stream.status_message);
  return 0;
}

bool FrameConnection::OnReadable() {
  static thread_local std::string* const buffer = new std::string(kReadBytes, '\0');
  while (true) {
    const ssize_t got = recv(fd_, buffer->data(), buffer->size(), MSG_DONTWAIT);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    const auto size = static_cast<size_t>(got);
    if (nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(buffer->data()), size) < 0) return false;
    if (size < buffer->size()) return true;
  }
}

bool FrameConnection::Flush() {
  while (true) {
    while (out_.size() < kMaxOutBytes) {
      const uint8_t* data;
      const ssize_t size = nghttp2_session_mem_send(session_, &data);
      if (size < 0) return false;
      if (size == 0) break;
      out_.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    }
    if (out_.empty()) return true;
    const ssize_t sent = send(fd_, out_.data(), out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    out_.erase(0, static_cast<size_t>(sent));
    if (!out_.empty()) return true;
  }
}

}  // namespace baton
#endif
