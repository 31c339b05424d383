#include "common/model/packed_weights.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/model/weight_cache.h"

namespace baton {
namespace {

using Severity = LoadNotice::Severity;

// Errors that lie in the model or the caller, not in the cache's directory.
bool IsFinal(const absl::Status& status) { return absl::IsInvalidArgument(status) || absl::IsCancelled(status); }

absl::StatusOr<PageBlock> PackIntoMemory(absl::Span<const MatrixSource> sources, ThreadPool& pool,
                                         const LoadObserver& observer) {
  int64_t total = 0;
  int64_t packed_bytes = 0;
  for (const MatrixSource& source : sources) {
    total += source.bytes();
    packed_bytes += source.packed_bytes();
  }
  BATON_ASSIGN_OR_RETURN(PageBlock memory, PageBlock::Allocate(static_cast<size_t>(packed_bytes)));
  int64_t done = 0;
  std::byte* to = memory.data();
  for (const MatrixSource& source : sources) {
    BATON_RETURN_IF_ERROR(observer.CheckCancelled());
    BATON_RETURN_IF_ERROR(PackMatrixFrom(
        source, pool,
        [&](int64_t bytes) {
          done += bytes;
          if (observer.progress) observer.progress(done, total);
        },
        to));
    source.matrix->data = to;
    to += source.packed_bytes();
  }
  return memory;
}

}  // namespace

absl::StatusOr<PackedWeights> PackWeights(const Checkpoint& checkpoint, absl::Span<const MatrixSource> sources,
                                          const std::string& cache_dir, ThreadPool& pool,
                                          const LoadObserver& observer) {
  PackedWeights packed;
  if (sources.empty()) return packed;
  if (!cache_dir.empty()) {
    WeightCache cache(cache_dir, checkpoint.ContentHash(), checkpoint.WeightFiles(), sources, observer);
    absl::StatusOr<MappedFile> file = cache.Provide(pool);
    if (file.ok()) {
      PopulateWeights(reinterpret_cast<const std::byte*>(file->view().data()), static_cast<int64_t>(file->size()),
                      pool);
      observer.Tell(Severity::kInfo, "weights_mapped",
                    absl::StrCat(cache.path(), ", ", FormatBytes(static_cast<int64_t>(file->size()))));
      packed.file = *std::move(file);
      return packed;
    }
    if (IsFinal(file.status())) return file.status();
    observer.Tell(Severity::kWarning, "weight_cache_failed",
                  absl::StrCat("packing weights into this process's own memory, at every start and for every worker: ",
                               file.status().message(), " (--cache-dir chooses another directory)"));
  }
  BATON_ASSIGN_OR_RETURN(packed.memory, PackIntoMemory(sources, pool, observer));
  return packed;
}

void PopulateWeights(const std::byte* data, int64_t bytes, ThreadPool& pool) {
  constexpr int64_t kSliceBytes = int64_t{64} << 20;
  PreferHugePages(data, static_cast<size_t>(bytes));
  pool.ParallelFor((bytes + kSliceBytes - 1) / kSliceBytes, 1, [&](int64_t first, int64_t last) {
    for (int64_t slice = first; slice < last; ++slice) {
      const int64_t begin = slice * kSliceBytes;
      PopulatePages(data + begin, static_cast<size_t>(std::min(kSliceBytes, bytes - begin)));
    }
  });
}

}  // namespace baton
