#include "common/rpc/decode_peers.h"

namespace baton {

std::shared_ptr<DecodePeer> DecodePeers::Get(const std::string& endpoint, absl::Time now) {
  // Handoffs under way keep their peer alive by themselves.
  absl::erase_if(peers_, [now](const auto& item) { return now - item.second.last_used > kIdle; });
  Entry& entry = peers_[endpoint];
  if (entry.peer == nullptr) entry.peer = std::make_shared<DecodePeer>(NewChannel(endpoint, channel_), credit_bytes_);
  entry.last_used = now;
  return entry.peer;
}

void DecodePeers::Forget(const std::string& endpoint) { peers_.erase(endpoint); }

}  // namespace baton
