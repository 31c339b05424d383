#include "prefill/decode_channels.h"

#include "common/rpc/channel.h"

namespace baton {

std::shared_ptr<grpc::Channel> DecodeChannels::Get(const std::string& endpoint, absl::Time now) {
  // Calls under way keep their channel alive by themselves.
  absl::erase_if(channels_, [now](const auto& item) { return now - item.second.last_used > kIdle; });
  Entry& entry = channels_[endpoint];
  if (entry.channel == nullptr) entry.channel = NewChannel(endpoint);
  entry.last_used = now;
  return entry.channel;
}

void DecodeChannels::Forget(const std::string& endpoint) { channels_.erase(endpoint); }

}  // namespace baton
