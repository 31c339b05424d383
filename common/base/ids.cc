#include "common/base/ids.h"

#include <sys/random.h>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {

uint64_t RandomUint64() {
  uint64_t value = 0;
  while (value == 0) {
    BATON_CHECK(getrandom(&value, sizeof(value), 0) == sizeof(value));
  }
  return value;
}

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  // Up to 256 bytes come at once or not at all.
  BATON_CHECK(count <= 256 && getrandom(&bytes[0], count, 0) == static_cast<ssize_t>(count));
  return bytes;
}

std::string NewBootId() { return absl::StrCat(absl::Hex(RandomUint64(), absl::kZeroPad16)); }

std::string NewRequestId() {
  return absl::StrCat("req-", absl::Hex(RandomUint64(), absl::kZeroPad16),
                      absl::Hex(RandomUint64() & 0xffff, absl::kZeroPad4));
}

}  // namespace baton
