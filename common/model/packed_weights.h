// The bytes behind a model's packed matrices: a file of the weight cache, mapped and shared with every process that
// maps it, or memory of this process.
//
//   BATON_ASSIGN_OR_RETURN(PackedWeights packed, PackWeights(checkpoint, sources, cache_dir, pool, observer));
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "common/base/mapped_file.h"
#include "common/base/pages.h"
#include "common/base/thread_pool.h"
#include "common/model/checkpoint.h"
#include "common/model/load_observer.h"
#include "common/model/matrix_source.h"

namespace baton {

struct PackedWeights {
  absl::optional<MappedFile> file;
  PageBlock memory;
};

// Points the sources' matrices into the result, whose pages are all there: the first request does not wait for the
// disk. An empty `cache_dir` means memory of this process; so does, after a warning, a cache that can't be used.
//   RESOURCE_EXHAUSTED  the packed weights do not fit into memory
//   INVALID_ARGUMENT    weights that can't be quantised
absl::StatusOr<PackedWeights> PackWeights(const Checkpoint& checkpoint, absl::Span<const MatrixSource> sources,
                                          const std::string& cache_dir, ThreadPool& pool, const LoadObserver& observer);

// Makes the pages of weights that were mapped resident, with all threads.
void PopulateWeights(const std::byte* data, int64_t bytes, ThreadPool& pool);

}  // namespace baton
