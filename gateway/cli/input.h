// Text that commands read: a prompt as argument, file or standard input; lines of a file or of a person.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gateway/cli/interrupt.h"
#include "gateway/cli/session.h"

namespace baton::cli {

// Prompts, and lines of --jsonl files.
inline constexpr size_t kMaxInputBytes = size_t{64} << 20;

// Lines of a file descriptor, without their newline. Waiting for input ends when Ctrl-C is pressed.
class LineReader {
 public:
  enum class End { kLine, kEof, kInterrupted };

  LineReader(int fd, Interrupt& interrupt) : fd_(fd), interrupt_(interrupt) {}
  // kLine: *line is set (the last one may lack its newline). INVALID_ARGUMENT for a line beyond kMaxInputBytes.
  absl::StatusOr<End> Next(std::string* line);
  // Drops what was read and not yet returned.
  void Discard() { buffer_.clear(); }

 private:
  const int fd_;
  Interrupt& interrupt_;
  std::string buffer_;
  // Bytes of buffer_ known to hold no newline.
  size_t searched_ = 0;
  bool eof_ = false;
};

// A file opened for LineReader; "-" is the terminal's standard input.
class InputFile {
 public:
  static absl::StatusOr<InputFile> Open(const std::string& path, int standard_input);
  InputFile(InputFile&& other) noexcept : fd_(other.fd_), owned_(other.owned_) { other.owned_ = false; }
  ~InputFile();
  int fd() const { return fd_; }

 private:
  InputFile(int fd, bool owned) : fd_(fd), owned_(owned) {}
  int fd_;
  bool owned_;
};

// Everything up to the end of the file. One newline at the end is dropped, as $(...) does in a shell.
absl::StatusOr<std::string> ReadWhole(const std::string& path, int standard_input);

// Where a command's main text comes from.
struct TextSource {
  // Set when the argument was given, even if empty.
  bool has_argument = false;
  std::string argument;
  // Empty: none. "-": standard input.
  std::string file;
};

// The argument, else the file, else standard input unless that is a terminal. `what` names it in errors ("prompt").
// INVALID_ARGUMENT when there is nothing, or it is not UTF-8.
absl::StatusOr<std::string> ReadText(const TextSource& source, absl::string_view what, Session& session);

// INVALID_ARGUMENT naming the offset of the first byte that is not UTF-8.
absl::Status CheckUtf8(absl::string_view text, absl::string_view what);

}  // namespace baton::cli
