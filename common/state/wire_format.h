// Constants and primitives of the state wire format, shared by its writer, its reader and whoever cuts or stores its
// frames. docs/state-format.md is the specification; what is here follows it.
//
// A stream is a sequence of frames:
//   type u8 | zero u8[3] | payload bytes u32 | payload | XXH3-64 of all of that u64
// All integers are little-endian; nothing is aligned.
#pragma once

#include <xxhash.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"

namespace baton::wire {

static_assert(std::endian::native == std::endian::little, "integers and elements are copied as they lie in memory");

enum class FrameType : uint8_t { kHeader = 1, kKv = 2, kRecurrent = 3, kCommit = 4 };

inline constexpr absl::string_view kMagic("BATONSEQ", 8);
// The version of streams without features, and the one that has room for them.
inline constexpr uint32_t kPlainVersion = 1;
inline constexpr uint32_t kVersion = 2;
// Features of a version 2 header.
inline constexpr uint32_t kInt8Kv = 1;
inline constexpr uint32_t kSampleList = 2;
inline constexpr uint32_t kFeatures = kInt8Kv | kSampleList;

// Around a payload.
inline constexpr size_t kFramePrefixBytes = 8;
inline constexpr size_t kFrameChecksumBytes = 8;
inline constexpr size_t kFrameOverheadBytes = kFramePrefixBytes + kFrameChecksumBytes;

// Payloads, without their variable parts.
inline constexpr size_t kHeaderBytes = 64;
inline constexpr size_t kLayerBytes = 32;
inline constexpr size_t kKvBytes = 16;
inline constexpr size_t kRecurrentBytes = 16;
// Of a commit up to its first token, or to the number of samples.
inline constexpr size_t kCommitBytes = 24;
inline constexpr size_t kSampleCountBytes = 8;
inline constexpr size_t kFirstTokenBytes = 12;
inline constexpr size_t kTopLogprobBytes = 8;
inline constexpr size_t kMaxTopLogprobs = 256;
// What a first token in a list says in place of the byte whether log probabilities follow.
inline constexpr uint8_t kHasLogprobs = 1;
inline constexpr uint8_t kEndsSample = 2;

// One (position, head, K or V) in int8: codes, one for each element, and their scale.
inline constexpr size_t kInt8ScaleBytes = 2;

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// XXH3-64 of bytes that come in several pieces.
class Checksum {
 public:
  Checksum() : state_(XXH3_createState()) {
    BATON_CHECK(state_ != nullptr);
    XXH3_64bits_reset(state_);
  }
  Checksum(const Checksum&) = delete;
  ~Checksum() { XXH3_freeState(state_); }
  void Add(absl::string_view bytes) { XXH3_64bits_update(state_, bytes.data(), bytes.size()); }
  uint64_t Finish() const { return XXH3_64bits_digest(state_); }

 private:
  XXH3_state_t* const state_;
};

// Binds a section to everything before it.
inline uint64_t ExtendChain(uint64_t chain, uint64_t section_checksum) {
  const uint64_t link[2] = {chain, section_checksum};
  return XXH3_64bits(link, sizeof(link));
}

}  // namespace baton::wire
