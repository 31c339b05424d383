// XXH3 of many megabytes, with all threads: the hash of the hashes of 4 MiB blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/thread_pool.h"

namespace baton {

enum class KeepPages { kYes, kNo };

// KeepPages::kNo: the bytes are a mapped file's that is not needed in memory afterwards (see DropPages).
uint64_t BlockChecksum(ThreadPool& pool, const std::byte* data, int64_t bytes, KeepPages keep = KeepPages::kYes);

}  // namespace baton
