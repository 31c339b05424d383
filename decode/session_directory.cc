#include "decode/session_directory.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace baton {
namespace {

// A file that is still being written by then never will be.
constexpr absl::Duration kLongestWrite = absl::Hours(1);

struct File {
  std::string path;
  int64_t bytes = 0;
  absl::Time expires;
};

enum class Kind { kOther, kSession, kTemporary };

Kind KindOf(absl::string_view name) {
  constexpr size_t kHashDigits = 64;
  if (name.size() <= kHashDigits) return Kind::kOther;
  const absl::string_view hash = name.substr(0, kHashDigits);
  if (!std::all_of(hash.begin(), hash.end(), absl::ascii_isxdigit)) return Kind::kOther;
  const absl::string_view rest = name.substr(kHashDigits);
  if (rest == ".session") return Kind::kSession;
  return absl::StartsWith(rest, ".session.") && absl::EndsWith(rest, ".tmp") ? Kind::kTemporary : Kind::kOther;
}

}  // namespace

DirectoryUse TidySessionDirectory(const std::string& directory, int64_t limit_bytes, int64_t room, absl::Time now) {
  DirectoryUse use;
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(opendir(directory.c_str()), closedir);
  if (listing == nullptr) return use;
  std::vector<File> files;
  while (const dirent* entry = readdir(listing.get())) {
    const Kind kind = KindOf(entry->d_name);
    if (kind == Kind::kOther) continue;
    File file;
    file.path = absl::StrCat(directory, "/", entry->d_name);
    struct stat info;
    // Another worker may have removed it just now.
    if (lstat(file.path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    const absl::Time modified = absl::TimeFromTimespec(info.st_mtim);
    if (kind == Kind::kTemporary) {
      if (now - modified > kLongestWrite) unlink(file.path.c_str());
      continue;
    }
    if (modified <= now) {
      unlink(file.path.c_str());
      continue;
    }
    file.bytes = info.st_size;
    file.expires = modified;
    use.bytes += file.bytes;
    files.push_back(std::move(file));
  }
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.expires < b.expires; });
  use.files = static_cast<int64_t>(files.size());
  for (const File& file : files) {
    if (use.bytes <= std::max<int64_t>(0, limit_bytes - room)) break;
    unlink(file.path.c_str());
    use.bytes -= file.bytes;
    --use.files;
    ++use.evicted;
  }
  return use;
}

}  // namespace baton
