#include "decode/session_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/full_io.h"
#include "common/base/ids.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/state/state_codec.h"
#include "common/state/state_frames.h"
#include "common/state/wire_format.h"

namespace baton {
namespace {

using wire::Put;

constexpr absl::string_view kMagic("BATONSES", 8);
constexpr uint32_t kVersion = 1;
constexpr size_t kHeadBytes = 136;  // before the tokens
constexpr size_t kChecksumBytes = 8;
constexpr uint32_t kMaxTokens = 1 << 24;
// Far beyond one position of one layer, or one layer's recurrent state.
constexpr size_t kMaxFrameBytes = size_t{64} << 20;

template <typename T>
T Get(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

absl::Status FileError(int error, const char* what, absl::string_view path) {
  const std::string message = absl::StrCat(what, " ", path, ": ", std::strerror(error));
  return MeansDiskFull(error) ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
}

// Appends to `out`; fewer than `bytes` at the end of the file.
absl::Status Read(const FileDescriptor& file, size_t bytes, std::string* out) {
  const int error = ReadUpTo(file.get(), bytes, out);
  return error == 0 ? absl::OkStatus() : FileError(error, "cannot read", "a session file");
}

absl::Status Corrupt(absl::string_view what) { return absl::DataLossError(absl::StrCat("session file: ", what)); }

std::string MakeHead(const SessionRecord& record, const Fingerprint& fingerprint) {
  std::string head(kMagic);
  Put(kVersion, &head);
  Put(uint32_t{0}, &head);
  head += fingerprint.ToBytes();
  head += Sha256(record.id);
  head += record.identity;
  Put(static_cast<uint64_t>(absl::ToUnixMillis(record.expires)), &head);
  Put(static_cast<uint64_t>(record.position), &head);
  Put(static_cast<uint32_t>(record.tokens.size()), &head);
  Put(uint32_t{0}, &head);
  BATON_CHECK(head.size() == kHeadBytes);
  for (const int32_t token : record.tokens) Put(token, &head);
  Put(uint64_t{XXH3_64bits(head.data(), head.size())}, &head);
  return head;
}

absl::Status WriteContents(int fd, const SessionRecord& record, const Fingerprint& fingerprint,
                           const SequenceState& state, const std::string& path) {
  std::string bytes = MakeHead(record, fingerprint);
  StateFrames frames(state, fingerprint);
  while (frames.Next(kStateFrameTargetBytes, &bytes)) {
    if (const int error = WriteAll(fd, bytes); error != 0) return FileError(error, "cannot write", path);
    bytes.clear();
  }
  struct timespec times[2] = {absl::ToTimespec(record.expires), absl::ToTimespec(record.expires)};
  if (futimens(fd, times) != 0 || fsync(fd) != 0) return FileError(errno, "cannot write", path);
  return absl::OkStatus();
}

}  // namespace

std::string SessionFileName(absl::string_view id) { return absl::BytesToHexString(Sha256(id)) + ".session"; }

absl::Status WriteSessionFile(const std::string& directory, const SessionRecord& record, const Fingerprint& fingerprint,
                              const SequenceState& state) {
  BATON_CHECK(record.id.size() == kSessionIdBytes && record.identity.size() == kIdentityBytes);
  BATON_CHECK(state.position() == record.position && record.position >= 1 && !record.tokens.empty());
  const std::string path = absl::StrCat(directory, "/", SessionFileName(record.id));
  const std::string temporary = absl::StrCat(path, ".", absl::Hex(RandomUint64()), ".tmp");
  FileDescriptor file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.is_open()) return FileError(errno, "cannot create", temporary);
  absl::Status status = WriteContents(file.get(), record, fingerprint, state, temporary);
  if (close(file.Release()) != 0 && status.ok()) status = FileError(errno, "cannot write", temporary);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0)
    status = FileError(errno, "cannot rename", temporary);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::StatusOr<SessionRecord> ParseSessionHead(absl::string_view head, absl::string_view id,
                                               const Fingerprint& fingerprint) {
  if (head.size() < kHeadBytes + kChecksumBytes) return Corrupt("too short");
  if (head.substr(0, kMagic.size()) != kMagic) return Corrupt("no session file at all");
  const uint32_t version = Get<uint32_t>(head, 8);
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("session file: version ", version, ", only ", kVersion, " is understood here"));
  }
  const uint32_t tokens = Get<uint32_t>(head, 128);
  if (tokens > kMaxTokens) return Corrupt("more tokens than any model takes");
  const size_t end = kHeadBytes + size_t{tokens} * sizeof(int32_t);
  if (head.size() < end + kChecksumBytes) return Corrupt("too short");
  if (XXH3_64bits(head.data(), end) != Get<uint64_t>(head, end)) return Corrupt("a checksum does not match");
  if (head.substr(16, 32) != fingerprint.ToBytes()) return absl::NotFoundError("the session is of another model");
  if (head.substr(48, kSha256Bytes) != Sha256(id)) return absl::NotFoundError("the file is of another session");

  SessionRecord record;
  record.id = std::string(id);
  record.identity = std::string(head.substr(80, kIdentityBytes));
  const uint64_t expires = Get<uint64_t>(head, 112);
  const uint64_t position = Get<uint64_t>(head, 120);
  if (Get<uint32_t>(head, 12) != 0 || Get<uint32_t>(head, 132) != 0) return Corrupt("reserved bytes are not zero");
  if (position < 1 || position > tokens || tokens - position > 1) {
    return Corrupt(absl::StrCat(tokens, " tokens, of which ", position, " are consumed"));
  }
  // Until the year 10000: anything else is no time that was written.
  if (expires > uint64_t{253402300800000}) return Corrupt("it never expires");
  record.expires = absl::FromUnixMillis(static_cast<int64_t>(expires));
  record.position = static_cast<int64_t>(position);
  record.tokens.resize(tokens);
  for (uint32_t i = 0; i < tokens; ++i) {
    record.tokens[i] = Get<int32_t>(head, kHeadBytes + i * sizeof(int32_t));
    if (record.tokens[i] < 0) return Corrupt("a negative token id");
  }
  return record;
}

absl::StatusOr<SessionFile> SessionFile::Open(const std::string& directory, absl::string_view id,
                                              const Fingerprint& fingerprint) {
  const std::string path = absl::StrCat(directory, "/", SessionFileName(id));
  FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file.is_open()) {
    return errno == ENOENT ? absl::NotFoundError("there is no such session file")
                           : FileError(errno, "cannot open", path);
  }
  struct stat info;
  if (fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) return Corrupt("not a regular file");
  std::string head;
  BATON_RETURN_IF_ERROR(Read(file, kHeadBytes, &head));
  if (head.size() == kHeadBytes) {
    const size_t tokens = std::min(Get<uint32_t>(head, 128), kMaxTokens);
    const size_t left = static_cast<size_t>(std::max<int64_t>(0, info.st_size - static_cast<int64_t>(kHeadBytes)));
    BATON_RETURN_IF_ERROR(Read(file, std::min(tokens * sizeof(int32_t) + kChecksumBytes, left), &head));
  }
  BATON_ASSIGN_OR_RETURN(SessionRecord record, ParseSessionHead(head, id, fingerprint));
  return SessionFile(std::move(file), std::move(record));
}

absl::Status SessionFile::ReadFrames(size_t max_bytes, std::string* frames) {
  const size_t begin = frames->size();
  while (frames->size() - begin < max_bytes) {
    const size_t at = frames->size();
    BATON_RETURN_IF_ERROR(Read(file_, wire::kFramePrefixBytes, frames));
    if (frames->size() == at) return absl::OkStatus();
    if (frames->size() - at < wire::kFramePrefixBytes) return Corrupt("it ends within a frame");
    const size_t rest = size_t{Get<uint32_t>(*frames, at + 4)} + wire::kFrameOverheadBytes - wire::kFramePrefixBytes;
    if (rest > kMaxFrameBytes) return Corrupt("a frame longer than any");
    BATON_RETURN_IF_ERROR(Read(file_, rest, frames));
    if (frames->size() - at < wire::kFramePrefixBytes + rest) return Corrupt("it ends within a frame");
  }
  return absl::OkStatus();
}

}  // namespace baton
