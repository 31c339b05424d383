// Feeds arbitrary bytes to the parser of session files' heads. Bit 0 of the first byte: the checksum is made right, so
// that what is behind it is reached.
//
// Held: no crash; what is accepted is consistent.
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "decode/session_file.h"

namespace baton {
namespace {

void Run(uint8_t choices, std::string head) {
  const std::string id(kSessionIdBytes, 'i');
  Fingerprint fingerprint;
  for (size_t i = 0; i < fingerprint.bytes.size(); ++i) fingerprint.bytes[i] = static_cast<uint8_t>(i);
  if ((choices & 1) != 0 && head.size() >= 144) {
    head.replace(0, 8, "BATONSES");
    head.replace(8, 8, std::string("\x01\0\0\0\0\0\0\0", 8));
    head.replace(16, 32, fingerprint.ToBytes());
    head.replace(48, 32, Sha256(id));
    const uint32_t tokens = static_cast<uint32_t>((head.size() - 144) / 4);
    std::memcpy(head.data() + 128, &tokens, sizeof(tokens));
    const size_t end = 136 + size_t{4} * tokens;
    const uint64_t checksum = XXH3_64bits(head.data(), end);
    std::memcpy(head.data() + end, &checksum, sizeof(checksum));
  }
  const absl::StatusOr<SessionRecord> record = ParseSessionHead(head, id, fingerprint);
  if (!record.ok()) return;
  BATON_CHECK(record->id == id && record->identity.size() == kIdentityBytes);
  BATON_CHECK(record->position >= 1 && record->position <= static_cast<int64_t>(record->tokens.size()));
  for (const int32_t token : record->tokens) BATON_CHECK(token >= 0);
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  baton::Run(data[0], std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
