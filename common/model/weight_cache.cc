#include "common/model/weight_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/bytes.h"
#include "common/base/full_io.h"
#include "common/base/pages.h"
#include "common/base/status_macros.h"
#include "common/model/block_checksum.h"
#include "common/model/json_object.h"
#include "common/model/sequential_writer.h"
#include "common/model/weight_cache_stamp.h"

namespace baton {
namespace {

namespace fs = std::filesystem;
using Severity = LoadNotice::Severity;

constexpr absl::string_view kTemporarySuffix = ".tmp";
// A file that is made and found broken this often has a cause that making it again does not remove.
constexpr int kMaxAttempts = 4;
constexpr absl::Duration kLockPoll = absl::Milliseconds(50);

bool SameFile(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

absl::Status Failed(const std::string& what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("can't ", what, " ", path));
}

// Where the file system can: a full disk shows before anything is packed.
absl::Status Reserve(const FileDescriptor& file, int64_t bytes, const std::string& path) {
  if (fallocate(file.get(), 0, 0, bytes) == 0 || errno == EOPNOTSUPP || errno == ENOSYS) return absl::OkStatus();
  return Failed(absl::StrCat("reserve ", FormatBytes(bytes), " for"), path);
}

// A name that was just given lasts.
void SyncDirectory(const std::string& directory) {
  const FileDescriptor descriptor(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.is_open()) fsync(descriptor.get());
}

}  // namespace

WeightCache::WeightCache(const std::string& directory, std::string content_hash,
                         std::vector<std::string> checkpoint_files, absl::Span<const MatrixSource> sources,
                         LoadObserver observer)
    : directory_(directory),
      content_hash_(std::move(content_hash)),
      checkpoint_files_(std::move(checkpoint_files)),
      sources_(sources),
      observer_(std::move(observer)),
      path_(absl::StrCat(directory, "/", content_hash_, "-", WeightPrecisionName(sources.front().matrix->precision),
                         "-v", kPackedLayoutVersion, ".weights")),
      temporary_(absl::StrCat(path_, kTemporarySuffix)) {}

absl::StatusOr<MappedFile> WeightCache::Provide(ThreadPool& pool) {
  absl::Status problem;
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    absl::StatusOr<MappedFile> file = Open(pool);
    if (file.ok()) return file;
    problem = file.status();
    if (!absl::IsNotFound(problem)) {
      observer_.Tell(Severity::kInfo, "weight_cache_unusable",
                     absl::StrCat("packing weights anew: ", path_, ": ", problem.message()));
    }
    BATON_RETURN_IF_ERROR(Build(pool));
  }
  return problem;
}

absl::StatusOr<MappedFile> WeightCache::Open(ThreadPool& pool) {
  BATON_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path_));
  BATON_ASSIGN_OR_RETURN(const WeightCacheIndex index,
                         ReadWeightCacheIndex(file.view(), static_cast<int64_t>(file.size())));
  BATON_RETURN_IF_ERROR(CheckIndex(index));
  const absl::StatusOr<std::string> stamp = MakeWeightCacheStamp(path_, checkpoint_files_);
  if (!stamp.ok() || !HasWeightCacheStamp(path_, *stamp)) {
    BATON_RETURN_IF_ERROR(CheckContents(index, file, pool));
    // The times before reading: a change meanwhile is noticed at the next start.
    if (stamp.ok()) SaveWeightCacheStamp(path_, *stamp);
  }
  for (size_t i = 0; i < sources_.size(); ++i) {
    sources_[i].matrix->data = reinterpret_cast<const std::byte*>(file.view().data()) + index.sections[i].offset;
  }
  return file;
}

absl::Status WeightCache::CheckIndex(const WeightCacheIndex& index) const {
  const WeightCacheIndex expected = MakeIndex();
  const bool same =
      index.content_hash == expected.content_hash && index.precision == expected.precision &&
      std::equal(index.sections.begin(), index.sections.end(), expected.sections.begin(), expected.sections.end(),
                 [](const WeightSection& a, const WeightSection& b) {
                   return a.name == b.name && a.outputs == b.outputs && a.inputs == b.inputs && a.offset == b.offset;
                 });
  return same ? absl::OkStatus() : absl::DataLossError("it belongs to another checkpoint or precision");
}

absl::Status WeightCache::CheckContents(const WeightCacheIndex& index, const MappedFile& file, ThreadPool& pool) const {
  int64_t total = 0;
  for (size_t i = 0; i < sources_.size(); ++i) total += index.sections[i].bytes + sources_[i].bytes();
  int64_t done = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const WeightSection& section = index.sections[i];
    const auto* bytes = reinterpret_cast<const std::byte*>(file.view().data()) + section.offset;
    if (BlockChecksum(pool, bytes, section.bytes) != section.checksum) {
      return absl::DataLossError(absl::StrCat("the checksum of section ", Quoted(section.name), " is wrong"));
    }
    if (BlockChecksum(pool, sources_[i].data(), sources_[i].bytes(), KeepPages::kNo) != section.source_checksum) {
      return absl::FailedPreconditionError(
          absl::StrCat("tensor ", Quoted(section.name), " of the checkpoint has changed since"));
    }
    done += section.bytes + sources_[i].bytes();
    if (observer_.progress) observer_.progress(done, total);
  }
  return absl::OkStatus();
}

absl::StatusOr<FileDescriptor> WeightCache::Lock() {
  FileDescriptor file(open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.is_open()) return Failed("create", temporary_);
  bool told = false;
  while (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return Failed("lock", temporary_);
    BATON_RETURN_IF_ERROR(observer_.CheckCancelled());
    if (!told) observer_.Tell(Severity::kInfo, "waiting_for_weights", "another process packs these weights; waiting");
    told = true;
    absl::SleepFor(kLockPoll);
  }
  return file;
}

bool WeightCache::IsTemporary(const FileDescriptor& file) const {
  struct stat named {};
  struct stat opened {};
  return stat(temporary_.c_str(), &named) == 0 && fstat(file.get(), &opened) == 0 && SameFile(named, opened);
}

absl::Status WeightCache::Build(ThreadPool& pool) {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("can't create ", directory_));
  BATON_ASSIGN_OR_RETURN(const FileDescriptor file, Lock());
  // Whoever held the lock has renamed or removed the file.
  if (!IsTemporary(file)) return absl::OkStatus();
  // Somebody may have finished between our look at the final name and our lock.
  if (Open(pool).ok()) {
    unlink(temporary_.c_str());
    return absl::OkStatus();
  }
  RemoveOrphans();
  absl::Status status = Write(file, pool);
  if (status.ok() && std::rename(temporary_.c_str(), path_.c_str()) != 0) status = Failed("rename", temporary_);
  if (!status.ok()) {
    unlink(temporary_.c_str());
    return status;
  }
  SyncDirectory(directory_);
  if (const auto stamp = MakeWeightCacheStamp(path_, checkpoint_files_); stamp.ok())
    SaveWeightCacheStamp(path_, *stamp);
  return absl::OkStatus();
}

absl::Status WeightCache::Write(const FileDescriptor& file, ThreadPool& pool) {
  WeightCacheIndex index = MakeIndex();
  const absl::Time start = absl::Now();
  int64_t total = 0;
  int64_t largest = 0;
  for (const MatrixSource& source : sources_) {
    total += source.bytes();
    largest = std::max(largest, source.packed_bytes());
  }
  observer_.Tell(
      Severity::kInfo, "packing_weights",
      absl::StrFormat("packing %s of weights as %s, %s, into %s", FormatBytes(total),
                      std::string(WeightPrecisionName(index.precision)), FormatBytes(index.file_bytes), path_));
  if (ftruncate(file.get(), 0) != 0) return Failed("truncate", temporary_);
  BATON_RETURN_IF_ERROR(Reserve(file, index.file_bytes, temporary_));
  BATON_ASSIGN_OR_RETURN(const PageBlock packed, PageBlock::Allocate(static_cast<size_t>(largest)));

  SequentialWriter writer(file.get(), kFirstSectionAlignment, temporary_);
  int64_t done = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const MatrixSource& source = sources_[i];
    WeightSection& section = index.sections[i];
    BATON_RETURN_IF_ERROR(observer_.CheckCancelled());
    section.source_checksum = BlockChecksum(pool, source.data(), source.bytes(), KeepPages::kNo);
    BATON_RETURN_IF_ERROR(PackMatrixFrom(
        source, pool,
        [&](int64_t bytes) {
          done += bytes;
          if (observer_.progress) observer_.progress(done, total);
        },
        packed.data()));
    section.checksum = BlockChecksum(pool, packed.data(), section.bytes);
    BATON_RETURN_IF_ERROR(writer.PadTo(section.offset));
    BATON_RETURN_IF_ERROR(writer.Append(packed.data(), section.bytes));
  }
  BATON_RETURN_IF_ERROR(writer.Flush());
  const std::string head = WriteWeightCacheIndex(index);
  BATON_CHECK(static_cast<int64_t>(head.size()) <= index.sections.front().offset);
  if (const int error = WriteAllAt(file.get(), 0, head); error != 0) {
    return absl::ErrnoToStatus(error, absl::StrCat("can't write ", temporary_));
  }
  if (fsync(file.get()) != 0) return Failed("write", temporary_);
  observer_.Tell(Severity::kInfo, "weights_packed",
                 absl::StrFormat("packed %s in %.1f s", FormatBytes(index.file_bytes),
                                 absl::ToDoubleSeconds(absl::Now() - start)));
  return absl::OkStatus();
}

// Temporary files of other checkpoints and precisions that nobody holds.
void WeightCache::RemoveOrphans() const {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_, ignored)) {
    const std::string path = entry.path().string();
    if (path == temporary_ || !absl::EndsWith(path, absl::StrCat(".weights", kTemporarySuffix))) continue;
    const FileDescriptor file(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (file.is_open() && flock(file.get(), LOCK_EX | LOCK_NB) == 0) unlink(path.c_str());
  }
}

WeightCacheIndex WeightCache::MakeIndex() const {
  WeightCacheIndex index;
  index.content_hash = content_hash_;
  index.precision = sources_.front().matrix->precision;
  for (const MatrixSource& source : sources_) {
    index.sections.push_back({.name = source.name,
                              .outputs = source.matrix->outputs,
                              .inputs = source.matrix->inputs,
                              .bytes = source.packed_bytes()});
  }
  PlaceSections(&index);
  return index;
}

std::string DefaultCacheDirectory() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && cache[0] == '/') {
    return absl::StrCat(cache, "/baton");
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && home[0] == '/') {
    return absl::StrCat(home, "/.cache/baton");
  }
  return "";
}

}  // namespace baton
