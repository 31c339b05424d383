// The three standard streams as a command sees them: are they a terminal, how wide, in colour or not, and writing that
// survives a reader that went away.
//
// Results go to Out, everything else (notes, progress, errors) to Note. Colour, cursor movement and progress only ever
// reach a terminal.
//
//   Terminal terminal(0, 1, 2, Terminal::Color::kAuto);
//   BATON_RETURN_IF_ERROR(terminal.Out("text\n"));          // CANCELLED, reason OUTPUT_CLOSED, after EPIPE
//   terminal.Note(terminal.Paint(Terminal::Style::kDim, "9 tokens\n"));
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace baton::cli {

class Terminal {
 public:
  enum class Style { kPlain, kBold, kDim, kRed, kGreen, kYellow, kCyan };

  // File descriptors; not closed by this class.
  Terminal(int in, int out, int err);

  int in() const { return in_; }
  int out() const { return out_; }
  bool in_is_terminal() const { return in_is_terminal_; }
  bool out_is_terminal() const { return out_is_terminal_; }
  bool err_is_terminal() const { return err_is_terminal_; }
  // False after --no-color, with NO_COLOR set, or TERM=dumb.
  void AllowColor(bool allow) { color_ = allow; }

  absl::Status Out(absl::string_view text);
  // Failures are ignored: there is nowhere to report them to.
  void Note(absl::string_view text);

  // `text` in that style when stdout (or stderr: PaintNote) is a terminal and colour is allowed.
  std::string Paint(Style style, absl::string_view text) const;
  std::string PaintNote(Style style, absl::string_view text) const;

  // Columns and rows of the terminal at stdout; 80 x 24 when it is none.
  int columns() const;
  int rows() const;
  // Columns of the terminal at stderr.
  int note_columns() const;

 private:
  const int in_;
  const int out_;
  const int err_;
  const bool in_is_terminal_;
  const bool out_is_terminal_;
  const bool err_is_terminal_;
  bool color_ = true;
  absl::Status out_failed_;
};

// Text of a model may hold anything, escape sequences that would move the cursor or set the window's title included.
// For a terminal, control characters other than newline and tab are replaced by U+FFFD. `text` is whole UTF-8
// characters.
std::string WithoutControls(absl::string_view text);

}  // namespace baton::cli
