#include "common/state/spilled_state.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/full_io.h"
#include "common/base/status_macros.h"
#include "common/state/state_codec.h"
#include "common/state/state_frames.h"

namespace baton {
namespace {

constexpr size_t kPartBytes = size_t{1} << 20;

absl::Status FileError(int error, const std::string& directory, absl::string_view what) {
  const absl::Status status =
      absl::ErrnoToStatus(error, absl::StrCat("can't ", what, " a spilled state in ", directory));
  return MeansDiskFull(error) ? absl::ResourceExhaustedError(status.message()) : status;
}

absl::StatusOr<FileDescriptor> OpenNameless(const std::string& directory) {
  FileDescriptor file(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (file.is_open()) return file;
  if (errno != EOPNOTSUPP && errno != EISDIR) return FileError(errno, directory, "make");
  // File systems that know no nameless files.
  std::string path = absl::StrCat(directory, "/baton-spill-XXXXXX");
  FileDescriptor named(mkostemp(path.data(), O_CLOEXEC));
  if (!named.is_open() || unlink(path.c_str()) != 0) return FileError(errno, directory, "make");
  return named;
}

}  // namespace

absl::StatusOr<SpilledState> SpillState(const std::string& directory, const Fingerprint& fingerprint,
                                        const SequenceState& state, int32_t next_token) {
  SpilledState spilled;
  BATON_ASSIGN_OR_RETURN(spilled.file_, OpenNameless(directory));
  StateFrames frames(state, fingerprint, next_token);
  for (std::string part; frames.Next(kPartBytes, &part); part.clear()) {
    const int error = WriteAll(spilled.file_.get(), part);
    if (error != 0) return FileError(error, directory, "write");
    spilled.parts_.push_back(part.size());
    spilled.bytes_ += static_cast<int64_t>(part.size());
  }
  return spilled;
}

absl::Status RestoreState(const SpilledState& spilled, const Fingerprint& fingerprint, int32_t next_token,
                          SequenceState* state) {
  StateReader reader(fingerprint, state);
  if (lseek(spilled.file_.get(), 0, SEEK_SET) != 0) return absl::DataLossError("a spilled state's file is gone");
  for (const size_t bytes : spilled.parts_) {
    std::string part;
    if (ReadUpTo(spilled.file_.get(), bytes, &part) != 0 || part.size() != bytes) {
      return absl::DataLossError("a spilled state's file is shorter than what was written to it");
    }
    const absl::Status fed = reader.Feed(part);
    if (!fed.ok()) return absl::DataLossError(absl::StrCat("a spilled state's file: ", fed.message()));
  }
  if (!reader.committed() || reader.commit().first_tokens[0].id != next_token) {
    return absl::DataLossError("a spilled state's file holds another state than was written to it");
  }
  return absl::OkStatus();
}

}  // namespace baton
