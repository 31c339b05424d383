// A directory of packed weights: one file per checkpoint, precision and layout version, made once and mapped by every
// worker of the host.
//
// Files are written under a temporary name, which is also the lock: whoever holds it packs, others wait and map what
// comes out. A temporary file that nobody holds was left by a process that died; it is written anew, or removed.
// Readers need no lock: a file with its final name is complete and never changes.
//
// What is checked when a file is opened: always its head (weight_cache_index.h) and its length; its contents, and that
// it was made from this very checkpoint, unless a stamp says that this was done and no file has changed since
// (weight_cache_stamp.h).
//
//   WeightCache cache(directory, content_hash, checkpoint_files, sources, observer);
//   absl::StatusOr<MappedFile> file = cache.Provide(pool);   // fills the sources' matrices
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/file_descriptor.h"
#include "common/base/mapped_file.h"
#include "common/base/thread_pool.h"
#include "common/model/load_observer.h"
#include "common/model/matrix_source.h"
#include "common/model/weight_cache_index.h"

namespace baton {

class WeightCache {
 public:
  // `sources` (not empty, of one precision) must outlive it.
  WeightCache(const std::string& directory, std::string content_hash, std::vector<std::string> checkpoint_files,
              absl::Span<const MatrixSource> sources, LoadObserver observer);

  // Maps the file, after making or remaking it where it must, and points the sources' matrices into it. Errors:
  // whatever keeps this directory from being used (full, read-only, not a directory), and weights that can't be
  // quantised (INVALID_ARGUMENT).
  absl::StatusOr<MappedFile> Provide(ThreadPool& pool);

  // <directory>/<content hash>-<precision>-v<layout version>.weights
  const std::string& path() const { return path_; }

 private:
  // NOT_FOUND when there is none; other errors say what is wrong with it.
  absl::StatusOr<MappedFile> Open(ThreadPool& pool);
  absl::Status CheckIndex(const WeightCacheIndex& index) const;
  absl::Status CheckContents(const WeightCacheIndex& index, const MappedFile& file, ThreadPool& pool) const;
  // Waits while another process packs. Holds the lock unless the temporary file's name is no longer this file's.
  absl::StatusOr<FileDescriptor> Lock();
  bool IsTemporary(const FileDescriptor& file) const;
  // OK, too, when another process was faster.
  absl::Status Build(ThreadPool& pool);
  absl::Status Write(const FileDescriptor& file, ThreadPool& pool);
  void RemoveOrphans() const;
  WeightCacheIndex MakeIndex() const;

  const std::string directory_;
  const std::string content_hash_;
  const std::vector<std::string> checkpoint_files_;
  const absl::Span<const MatrixSource> sources_;
  const LoadObserver observer_;
  const std::string path_;
  const std::string temporary_;
};

// $XDG_CACHE_HOME/baton or ~/.cache/baton; empty when neither variable is set.
std::string DefaultCacheDirectory();

}  // namespace baton
