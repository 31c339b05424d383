// Byte counts in flags and messages: "512MiB", "2GiB", "1.5G", "4096".
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

// Suffixes K, M, G, T with optional iB (powers of 1024) or B; no suffix: bytes. INVALID_ARGUMENT otherwise, also for
// negative or overflowing values.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);
// "1.5 GiB", "17.2 MiB", "512 B".
std::string FormatBytes(int64_t bytes);

}  // namespace baton
