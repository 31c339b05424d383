// Remembers that a cache file of packed weights was read from end to end and found whole, so that the next start need
// not read it again.
//
// A stamp is a hash of what would change if a file did: inode, size and times of the cache file and of the checkpoint's
// files, and the boot of the machine (after a crash, what was written may not have reached the disk; and then the pages
// have to be read anyway). It lies beside the cache file, with ".checked" behind its name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace baton {

// Of the files as they are now. Errors of stat.
absl::StatusOr<std::string> MakeWeightCacheStamp(const std::string& cache_file,
                                                 const std::vector<std::string>& checkpoint_files);

bool HasWeightCacheStamp(const std::string& cache_file, const std::string& stamp);

// Failures are ignored: without a stamp the file is checked again.
void SaveWeightCacheStamp(const std::string& cache_file, const std::string& stamp);

}  // namespace baton
