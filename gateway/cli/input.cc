#include "gateway/cli/input.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"

namespace baton::cli {
namespace {

constexpr size_t kReadBytes = 64 << 10;

std::string SourceName(const std::string& path) { return path == "-" ? "standard input" : path; }

}  // namespace

absl::StatusOr<LineReader::End> LineReader::Next(std::string* line) {
  Interrupt::Scope scope(interrupt_);
  while (true) {
    const size_t newline = buffer_.find('\n', searched_);
    if (newline != std::string::npos) {
      line->assign(buffer_, 0, newline);
      buffer_.erase(0, newline + 1);
      searched_ = 0;
      return End::kLine;
    }
    searched_ = buffer_.size();
    if (eof_) {
      if (buffer_.empty()) return End::kEof;
      *line = std::move(buffer_);
      buffer_.clear();
      searched_ = 0;
      return End::kLine;
    }
    if (buffer_.size() > kMaxInputBytes) {
      return absl::InvalidArgumentError(absl::StrCat("a line of the input is longer than ", kMaxInputBytes, " bytes"));
    }
    pollfd waiting[] = {{fd_, POLLIN, 0}, {interrupt_.fd(), POLLIN, 0}};
    if (poll(waiting, 2, -1) < 0) continue;
    if (waiting[1].revents != 0) return End::kInterrupted;
    char bytes[kReadBytes];
    const ssize_t got = read(fd_, bytes, sizeof bytes);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return absl::UnknownError(absl::StrCat("cannot read the input: ", std::strerror(errno)));
    if (got == 0) {
      eof_ = true;
    } else {
      buffer_.append(bytes, static_cast<size_t>(got));
    }
  }
}

absl::StatusOr<InputFile> InputFile::Open(const std::string& path, int standard_input) {
  if (path == "-") return InputFile(standard_input, /*owned=*/false);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::InvalidArgumentError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  return InputFile(fd, /*owned=*/true);
}

InputFile::~InputFile() {
  if (owned_) close(fd_);
}

absl::StatusOr<std::string> ReadWhole(const std::string& path, int standard_input) {
  BATON_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, standard_input));
  std::string text;
  char bytes[kReadBytes];
  while (true) {
    const ssize_t got = read(file.fd(), bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::InvalidArgumentError(absl::StrCat("cannot read ", SourceName(path), ": ", std::strerror(errno)));
    }
    if (got == 0) break;
    text.append(bytes, static_cast<size_t>(got));
    if (text.size() > kMaxInputBytes) {
      return absl::InvalidArgumentError(absl::StrCat(SourceName(path), " is longer than ", kMaxInputBytes, " bytes"));
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

absl::StatusOr<std::string> ReadText(const TextSource& source, absl::string_view what, Session& session) {
  std::string text;
  if (source.has_argument) {
    text = source.argument;
  } else {
    std::string path = source.file;
    if (path.empty()) {
      if (session.terminal().in_is_terminal()) {
        return absl::InvalidArgumentError(
            absl::StrCat("no ", what, ": give it as an argument, with --file or on standard input"));
      }
      path = "-";
    }
    BATON_ASSIGN_OR_RETURN(text, ReadWhole(path, session.terminal().in()));
  }
  BATON_RETURN_IF_ERROR(CheckUtf8(text, what));
  return text;
}

absl::Status CheckUtf8(absl::string_view text, absl::string_view what) {
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid == absl::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the ", what, " is not UTF-8 text (byte ", invalid, ")"));
}

}  // namespace baton::cli
