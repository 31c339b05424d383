// One HTTP/2 connection that carries gRPC messages, on libnghttp2 and a non-blocking socket. Used by one thread.
//
//   FrameConnection connection(fd, FrameConnection::Side::kServer, &handler);
//   int32_t id = connection.Request("/baton.v1.Inference/GenerateStream", message);       // as a client
//   connection.Respond(id);  connection.Send(id, message);  connection.End(id);           // as a server
//   if (!connection.OnReadable() || !connection.Flush()) ...                              // it is gone
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <string>
#include <unordered_map>

#include "absl/strings/string_view.h"

namespace baton {

class FrameConnection {
 public:
  enum class Side { kClient, kServer };

  class Handler {
   public:
    virtual ~Handler() = default;
    // A whole message.
    virtual void OnMessage(FrameConnection& connection, int32_t stream, absl::string_view message) = 0;
    // The stream is over; a server's side answered with this gRPC status (-1: none).
    virtual void OnClose(FrameConnection& connection, int32_t stream, int status, const std::string& message) = 0;
  };

  // Owns `fd`. `handler` must outlive it.
  FrameConnection(int fd, Side side, Handler* handler);
  ~FrameConnection();
  FrameConnection(const FrameConnection&) = delete;

  // A call with its one message.
  int32_t Request(const std::string& path, absl::string_view message);
  // The beginning of an answer.
  void Respond(int32_t stream);
  void Send(int32_t stream, absl::string_view message);
  // Status OK, after what has been sent.
  void End(int32_t stream);
  // Messages of the stream that wait to be sent.
  size_t queued(int32_t stream) const;
  // What a client asked for.
  const std::string& path(int32_t stream) const;

  // False: the connection is broken.
  bool OnReadable();
  bool Flush();
  bool wants_to_write() const { return !out_.empty(); }
  int fd() const { return fd_; }

 private:
  struct Stream {
    std::string path;
    // Bytes to send, and of those that are sent: where each message that is not wholly sent yet ends.
    std::string out;
    size_t taken = 0;
    size_t queued = 0;
    bool ending = false;
    bool deferred = false;
    std::string in;
    int status = -1;
    std::string status_message;
  };

  static FrameConnection* Of(void* user) { return static_cast<FrameConnection*>(user); }
  static int OnHeader(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                      const uint8_t* value, size_t value_length, uint8_t flags, void* user);
  static int OnData(nghttp2_session* session, uint8_t flags, int32_t id, const uint8_t* data, size_t length,
                    void* user);
  static int OnStreamClose(nghttp2_session* session, int32_t id, uint32_t error, void* user);
  static ssize_t ReadData(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t length, uint32_t* flags,
                          nghttp2_data_source* source, void* user);

  const int fd_;
  const Side side_;
  Handler* const handler_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<int32_t, Stream> streams_;
  // For the socket.
  std::string out_;
};

}  // namespace baton
