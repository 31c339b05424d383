#include "gateway/cli/input.h"

#include <signal.h>
#include <unistd.h>

#include <thread>

#include <gtest/gtest.h>

#include "gateway/cli/interrupt.h"
#include "tests/cli/cli_runner.h"

namespace baton::cli {
namespace {

TEST(LineReader, SplitsWhateverThePiecesAre) {
  Pipe pipe;
  std::thread writer([&] {
    for (const char c : std::string("one\n\nthree, without newline")) ASSERT_EQ(write(pipe.write_end(), &c, 1), 1);
    pipe.CloseWrite();
  });
  Interrupt interrupt;
  LineReader reader(pipe.read_end(), interrupt);
  std::vector<std::string> lines;
  std::string line;
  absl::StatusOr<LineReader::End> end = reader.Next(&line);
  while (end.ok() && *end == LineReader::End::kLine) {
    lines.push_back(line);
    end = reader.Next(&line);
  }
  writer.join();
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(*end, LineReader::End::kEof);
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "", "three, without newline"}));
}

TEST(LineReader, StopsWaitingWhenInterrupted) {
  Pipe pipe;
  Interrupt interrupt;
  // Somebody acts on signals for the whole test, so that raising one is never fatal.
  Interrupt::Scope scope(interrupt);
  LineReader reader(pipe.read_end(), interrupt);
  std::thread presses([&] { interrupt.Raise(SIGINT); });
  std::string line;
  const absl::StatusOr<LineReader::End> end = reader.Next(&line);
  presses.join();
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(*end, LineReader::End::kInterrupted);
  interrupt.Clear();
  ASSERT_EQ(write(pipe.write_end(), "x\n", 2), 2);
  ASSERT_TRUE(reader.Next(&line).ok());
  EXPECT_EQ(line, "x");
}

TEST(ReadWhole, DropsOneNewlineAtTheEnd) {
  EXPECT_EQ(*ReadWhole(TemporaryFile("text\n\n").path(), -1), "text\n");
  EXPECT_EQ(*ReadWhole(TemporaryFile("text").path(), -1), "text");
  EXPECT_EQ(*ReadWhole(TemporaryFile("").path(), -1), "");
}

TEST(ReadWhole, NamesWhatItCannotRead) {
  const absl::Status missing = ReadWhole("/nowhere/prompt.txt", -1).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(missing.message(), "cannot open /nowhere/prompt.txt: No such file or directory");
  EXPECT_EQ(ReadWhole("/", -1).status().message(), "cannot read /: Is a directory");
}

TEST(CheckUtf8, NamesTheByte) {
  EXPECT_TRUE(CheckUtf8("\xE2\x82\xAC", "prompt").ok());
  EXPECT_EQ(CheckUtf8("ab\xFF", "prompt").message(), "the prompt is not UTF-8 text (byte 2)");
}

}  // namespace
}  // namespace baton::cli
