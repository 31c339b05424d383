#include "common/model/weight_cache_stamp.h"

#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdio>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

std::string StampPath(const std::string& cache_file) { return cache_file + ".checked"; }

// Empty when it cannot be read; longer files are none of those read here.
std::string ReadText(const std::string& path) { return ReadFileOrPipe(path, 256).value_or(""); }

absl::Status AddFile(const std::string& path, std::string* facts) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("can't stat ", path));
  absl::StrAppend(facts, " ", info.st_ino, " ", info.st_size, " ", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, " ",
                  info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> MakeWeightCacheStamp(const std::string& cache_file,
                                                 const std::vector<std::string>& checkpoint_files) {
  std::string facts = ReadText("/proc/sys/kernel/random/boot_id");
  BATON_RETURN_IF_ERROR(AddFile(cache_file, &facts));
  for (const std::string& file : checkpoint_files) BATON_RETURN_IF_ERROR(AddFile(file, &facts));
  const XXH128_hash_t hash = XXH3_128bits(facts.data(), facts.size());
  return absl::StrFormat("baton weights checked %016x%016x\n", hash.high64, hash.low64);
}

bool HasWeightCacheStamp(const std::string& cache_file, const std::string& stamp) {
  return ReadText(StampPath(cache_file)) == stamp;
}

void SaveWeightCacheStamp(const std::string& cache_file, const std::string& stamp) {
  const std::string path = StampPath(cache_file);
  const std::string partial = absl::StrCat(path, ".", getpid());
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file << stamp;
  file.close();
  if (file.fail() || std::rename(partial.c_str(), path.c_str()) != 0) std::remove(partial.c_str());
}

}  // namespace baton
