#include "common/model/block_checksum.h"

#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "common/base/pages.h"

namespace baton {

uint64_t BlockChecksum(ThreadPool& pool, const std::byte* data, int64_t bytes, KeepPages keep) {
  constexpr int64_t kBlockBytes = 4 << 20;
  std::vector<uint64_t> hashes((bytes + kBlockBytes - 1) / kBlockBytes);
  pool.ParallelFor(static_cast<int64_t>(hashes.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const std::byte* begin = data + block * kBlockBytes;
      const size_t size = static_cast<size_t>(std::min(kBlockBytes, bytes - block * kBlockBytes));
      hashes[block] = XXH3_64bits(begin, size);
      if (keep == KeepPages::kNo) DropPages(begin, size);
    }
  });
  return XXH3_64bits_withSeed(hashes.data(), hashes.size() * sizeof(uint64_t), static_cast<XXH64_hash_t>(bytes));
}

}  // namespace baton
