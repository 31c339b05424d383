#include "common/state/spilled_state.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/state/state_codec.h"
#include "common/state/state_pieces.h"

namespace baton {
namespace {

constexpr size_t kPartBytes = size_t{1} << 20;

absl::Status FileError(const std::string& directory, absl::string_view what) {
  const absl::Status status =
      absl::ErrnoToStatus(errno, absl::StrCat("can't ", what, " a spilled state in ", directory));
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) return absl::ResourceExhaustedError(status.message());
  return status;
}

absl::StatusOr<FileDescriptor> OpenNameless(const std::string& directory) {
  FileDescriptor file(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (file.is_open()) return file;
  if (errno != EOPNOTSUPP && errno != EISDIR) return FileError(directory, "make");
  // File systems that know no nameless files.
  std::string path = absl::StrCat(directory, "/baton-spill-XXXXXX");
  FileDescriptor named(mkostemp(path.data(), O_CLOEXEC));
  if (!named.is_open() || unlink(path.c_str()) != 0) return FileError(directory, "make");
  return named;
}

bool WriteAll(int file, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// False at the end of the file too.
bool ReadAll(int file, off_t offset, std::string* out) {
  for (size_t at = 0; at < out->size();) {
    const ssize_t got = pread(file, out->data() + at, out->size() - at, offset + static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += static_cast<size_t>(got);
  }
  return true;
}

}  // namespace

absl::StatusOr<SpilledState> SpillState(const std::string& directory, const Fingerprint& fingerprint,
                                        const SequenceState& state, int32_t next_token) {
  SpilledState spilled;
  BATON_ASSIGN_OR_RETURN(spilled.file_, OpenNameless(directory));
  std::string part;
  const auto write_part = [&] {
    if (!WriteAll(spilled.file_.get(), part)) return FileError(directory, "write");
    spilled.parts_.push_back(part.size());
    spilled.bytes_ += static_cast<int64_t>(part.size());
    part.clear();
    return absl::OkStatus();
  };

  StateFrameWriter frames(fingerprint, state.layout(), state.position());
  StateCutter cutter(state.layout(), state.position());
  std::vector<StatePiece> pieces;
  cutter.AllLayersDone(state, &pieces);
  // Every piece is written at once, so the rows need no other owner than the caller.
  const auto owner = std::make_shared<const int>(0);
  ByteChain header;
  frames.WriteHeader(&header);
  header.AppendTo(&part);
  for (const StatePiece& piece : pieces) {
    ByteChain chain;
    frames.WritePiece(piece, owner, &chain);
    chain.AppendTo(&part);
    if (part.size() >= kPartBytes) BATON_RETURN_IF_ERROR(write_part());
  }
  FirstTokenRecord next;
  next.id = next_token;
  ByteChain commit;
  frames.WriteCommit({next}, &commit);
  commit.AppendTo(&part);
  BATON_RETURN_IF_ERROR(write_part());
  return spilled;
}

absl::Status RestoreState(const SpilledState& spilled, const Fingerprint& fingerprint, int32_t next_token,
                          SequenceState* state) {
  StateReader reader(fingerprint, state);
  std::string part;
  off_t offset = 0;
  for (const size_t bytes : spilled.parts_) {
    part.resize(bytes);
    if (!ReadAll(spilled.file_.get(), offset, &part)) {
      return absl::DataLossError("a spilled state's file is shorter than what was written to it");
    }
    offset += static_cast<off_t>(bytes);
    const absl::Status fed = reader.Feed(part);
    if (!fed.ok()) return absl::DataLossError(absl::StrCat("a spilled state's file: ", fed.message()));
  }
  if (!reader.committed() || reader.commit().first_tokens[0].id != next_token) {
    return absl::DataLossError("a spilled state's file holds another state than was written to it");
  }
  return absl::OkStatus();
}

}  // namespace baton
