// Keeps a directory of session files within its limit: removes what has expired, what a dead process left half
// written, and, where that is not enough, the files that expire first. Nothing but session files is touched. Any number
// of workers may tidy one directory at a time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace baton {

struct DirectoryUse {
  // What is left.
  int64_t files = 0;
  int64_t bytes = 0;
  // What went though it had not expired.
  int64_t evicted = 0;
};

// `room`: bytes to leave free below `limit_bytes`.
DirectoryUse TidySessionDirectory(const std::string& directory, int64_t limit_bytes, int64_t room, absl::Time now);

}  // namespace baton
