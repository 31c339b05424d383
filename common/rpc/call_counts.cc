#include "common/rpc/call_counts.h"

#include <arpa/inet.h>
#include <grpc/grpc.h>
#include <grpc/support/alloc.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <initializer_list>
#include <memory>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace baton {
namespace {

using nlohmann::json;

constexpr intptr_t kMaxResults = 1 << 20;

// Takes what channelz answers; null when there is no such thing any more.
json Parse(char* text) {
  const std::unique_ptr<char, void (*)(void*)> owner(text, gpr_free);
  if (text == nullptr) return nullptr;
  return json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
}

// The member at a path of names; null when it is not there.
const json& At(const json& value, std::initializer_list<const char*> path) {
  static const json* const none = new json;
  const json* at = &value;
  for (const char* name : path) {
    if (!at->is_object()) return *none;
    const auto found = at->find(name);
    if (found == at->end()) return *none;
    at = &*found;
  }
  return *at;
}

// Numbers come as strings, and not at all when they are 0.
int64_t Number(const json& value) {
  int64_t number = 0;
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_string() || !absl::SimpleAtoi(value.get_ref<const std::string&>(), &number)) return 0;
  return number;
}

// `address`: 4 or 16 bytes.
std::string PeerName(absl::string_view address, int port) {
  char text[INET6_ADDRSTRLEN] = "";
  constexpr absl::string_view kMapped("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
  if (address.size() == 16 && address.substr(0, 12) == kMapped) address.remove_prefix(12);
  if (address.size() == 4) {
    inet_ntop(AF_INET, address.data(), text, sizeof(text));
    return absl::StrCat(text, ":", port);
  }
  if (address.size() != 16) return "";
  inet_ntop(AF_INET6, address.data(), text, sizeof(text));
  return absl::StrCat("[", text, "]:", port);
}

// Calls `use` with what channelz knows of each server; use(id, server).
template <typename Use>
void ForEachServer(Use use) {
  intptr_t next = 0;
  while (true) {
    const json answer = Parse(grpc_channelz_get_servers(next));
    const json& servers = At(answer, {"server"});
    for (const json& server : servers) {
      const int64_t id = Number(At(server, {"ref", "serverId"}));
      use(id, server);
      next = static_cast<intptr_t>(id) + 1;
    }
    const json& end = At(answer, {"end"});
    if (servers.empty() || (end.is_boolean() && end.get<bool>())) return;
  }
}

}  // namespace

int64_t CountStartedCalls() {
  int64_t started = 0;
  ForEachServer([&](int64_t, const json& server) { started += Number(At(server, {"data", "callsStarted"})); });
  return started;
}

std::vector<ConnectionCalls> CountConnectionCalls() {
  std::vector<ConnectionCalls> connections;
  ForEachServer([&](int64_t server, const json&) {
    const json answer = Parse(grpc_channelz_get_server_sockets(static_cast<intptr_t>(server), 0, kMaxResults));
    for (const json& ref : At(answer, {"socketRef"})) {
      ConnectionCalls connection;
      connection.id = Number(At(ref, {"socketId"}));
      const json socket = Parse(grpc_channelz_get_socket(static_cast<intptr_t>(connection.id)));
      const json& remote = At(socket, {"socket", "remote", "tcpip_address"});
      std::string address;
      const json& encoded = At(remote, {"ip_address"});
      if (!encoded.is_string() || !absl::Base64Unescape(encoded.get_ref<const std::string&>(), &address)) continue;
      connection.peer = PeerName(address, static_cast<int>(Number(At(remote, {"port"}))));
      const json& data = At(socket, {"socket", "data"});
      connection.started = Number(At(data, {"streamsStarted"}));
      connection.answered = Number(At(data, {"streamsSucceeded"}));
      connection.broken = Number(At(data, {"streamsFailed"}));
      connections.push_back(std::move(connection));
    }
  });
  return connections;
}

std::string PeerOf(int socket) {
  sockaddr_storage name = {};
  socklen_t size = sizeof(name);
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&name), &size) != 0) return "";
  if (name.ss_family == AF_INET) {
    const auto* const v4 = reinterpret_cast<const sockaddr_in*>(&name);
    return PeerName({reinterpret_cast<const char*>(&v4->sin_addr), sizeof(v4->sin_addr)}, ntohs(v4->sin_port));
  }
  if (name.ss_family != AF_INET6) return "";
  const auto* const v6 = reinterpret_cast<const sockaddr_in6*>(&name);
  return PeerName({reinterpret_cast<const char*>(&v6->sin6_addr), sizeof(v6->sin6_addr)}, ntohs(v6->sin6_port));
}

}  // namespace baton
