// What gRPC has counted (channelz) of the calls at this process's servers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baton {

// Since the servers' start.
struct ServerCalls {
  int64_t started = 0;
  // Of those, the calls that the application has been through with.
  int64_t finished = 0;
};

// Of one connection.
struct ConnectionCalls {
  int64_t id = 0;
  // As PeerOf names it.
  std::string peer;
  // Streams that are open now.
  int64_t open = 0;
  // Streams that are closed, and of those the ones that the server had not ended itself.
  int64_t closed = 0;
  int64_t broken = 0;
};

// Cheap.
ServerCalls CountCalls();
// Some 20 microseconds for each connection.
std::vector<ConnectionCalls> CountConnectionCalls();

// The other side's IP:PORT of a connected TCP socket; empty when it is none. IPv4 addresses are always written as such.
std::string PeerOf(int socket);

}  // namespace baton
