// Taking streams of the state wire format apart and making well-formed frames of ill-meaning contents. Written from
// docs/state-format.md, not with the codec's own constants, so that a change of the format shows.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"

namespace baton {

struct StateFrame {
  int type;
  std::string payload;
  // The whole frame.
  std::string bytes;
};

inline constexpr int kHeaderFrame = 1;
inline constexpr int kKvFrame = 2;
inline constexpr int kRecurrentFrame = 3;
inline constexpr int kCommitFrame = 4;

template <typename T>
T ReadAt(absl::string_view bytes, size_t offset) {
  T value;
  BATON_CHECK(offset + sizeof(value) <= bytes.size());
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

template <typename T>
void WriteAt(T value, size_t offset, std::string* bytes) {
  BATON_CHECK(offset + sizeof(value) <= bytes->size());
  std::memcpy(bytes->data() + offset, &value, sizeof(value));
}

inline std::vector<StateFrame> SplitFrames(absl::string_view stream) {
  std::vector<StateFrame> frames;
  while (!stream.empty()) {
    const size_t payload = ReadAt<uint32_t>(stream, 4);
    frames.push_back({static_cast<uint8_t>(stream[0]), std::string(stream.substr(8, payload)),
                      std::string(stream.substr(0, payload + 16))});
    stream.remove_prefix(payload + 16);
  }
  return frames;
}

// A frame with a right checksum.
inline StateFrame SealFrame(int type, std::string payload) {
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(type);
  WriteAt(static_cast<uint32_t>(payload.size()), 4, &bytes);
  bytes += payload;
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return {type, std::move(payload), std::move(bytes)};
}

// Joins frames; with a commit at the end, its section count and chain are made right for what is before it.
inline std::string JoinFrames(std::vector<StateFrame> frames, bool fix_commit = true) {
  std::string stream;
  uint64_t chain = 0;
  uint64_t sections = 0;
  for (StateFrame& frame : frames) {
    if (frame.type == kCommitFrame && fix_commit && frame.payload.size() >= 24) {
      WriteAt(sections, 8, &frame.payload);
      WriteAt(chain, 16, &frame.payload);
      frame = SealFrame(kCommitFrame, frame.payload);
    }
    const uint64_t checksum = ReadAt<uint64_t>(frame.bytes, frame.bytes.size() - 8);
    if (frame.type == kHeaderFrame) {
      chain = checksum;
    } else {
      const uint64_t link[2] = {chain, checksum};
      chain = XXH3_64bits(link, sizeof(link));
      ++sections;
    }
    stream += frame.bytes;
  }
  return stream;
}

}  // namespace baton
