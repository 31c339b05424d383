#include "gateway/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/full_io.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/exit_code.h"

namespace baton::cli {
namespace {

const char* Code(Terminal::Style style) {
  switch (style) {
    case Terminal::Style::kPlain:
      return "";
    case Terminal::Style::kBold:
      return "\033[1m";
    case Terminal::Style::kDim:
      return "\033[2m";
    case Terminal::Style::kRed:
      return "\033[31m";
    case Terminal::Style::kGreen:
      return "\033[32m";
    case Terminal::Style::kYellow:
      return "\033[33m";
    case Terminal::Style::kCyan:
      return "\033[36m";
  }
  return "";
}

std::string Painted(Terminal::Style style, absl::string_view text, bool in_color) {
  if (!in_color || style == Terminal::Style::kPlain || text.empty()) return std::string(text);
  return absl::StrCat(Code(style), text, "\033[0m");
}

winsize WindowSize(int fd) {
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    size.ws_col = 80;
    size.ws_row = 24;
  }
  return size;
}

}  // namespace

Terminal::Terminal(int in, int out, int err)
    : in_(in),
      out_(out),
      err_(err),
      in_is_terminal_(isatty(in) == 1),
      out_is_terminal_(isatty(out) == 1),
      err_is_terminal_(isatty(err) == 1) {}

absl::Status Terminal::Out(absl::string_view text) {
  if (!out_failed_.ok()) return out_failed_;
  const int error = WriteAll(out_, text);
  if (error == EPIPE) {
    out_failed_ = WithReason(absl::CancelledError("the reader of the output went away"), kOutputClosed);
  } else if (error != 0) {
    out_failed_ = absl::UnknownError(absl::StrCat("cannot write to standard output: ", std::strerror(error)));
  }
  return out_failed_;
}

void Terminal::Note(absl::string_view text) { WriteAll(err_, text); }

std::string Terminal::Paint(Style style, absl::string_view text) const {
  return Painted(style, text, color_ && out_is_terminal_);
}

std::string Terminal::PaintNote(Style style, absl::string_view text) const {
  return Painted(style, text, color_ && err_is_terminal_);
}

int Terminal::columns() const { return WindowSize(out_).ws_col; }
int Terminal::rows() const { return WindowSize(out_).ws_row; }
int Terminal::note_columns() const { return WindowSize(err_).ws_col; }

std::string WithoutControls(absl::string_view text) {
  constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c0 = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F;
    // U+0080 to U+009F: C2 80 to C2 9F.
    const bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c0 || c1) {
      absl::StrAppend(&out, kReplacement);
      if (c1) ++i;
    } else {
      out.push_back(static_cast<char>(byte));
    }
  }
  return out;
}

}  // namespace baton::cli
