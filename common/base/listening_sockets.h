// Sockets that listen on every address of a host, with errors that say what to do.
//
//   BATON_ASSIGN_OR_RETURN(ListeningSockets listening, Listen("localhost:0", "--metrics"));
//   poll ... accept4(listening.sockets[i].get(), ...)
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/file_descriptor.h"

namespace baton {

struct ListeningSockets {
  // At least one; non-blocking.
  std::vector<FileDescriptor> sockets;
  // Of all of them.
  int port = 0;
};

// `address`: HOST:PORT, port 0 picks a free one. UNAVAILABLE with the address, the reason and the advice to choose
// another with `flag`: not HOST:PORT, an unknown host, a port in use, an address of another host.
absl::StatusOr<ListeningSockets> Listen(const std::string& address, absl::string_view flag);

}  // namespace baton
