#include "common/base/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/temporary_directory.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

class MappedFileTest : public testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) const {
    directory_.Write(name, text);
    return directory_.File(name);
  }

  const TemporaryDirectory directory_;
};

TEST_F(MappedFileTest, MapsAndReadsTheWholeFile) {
  const std::string text = std::string("a\0b", 3) + std::string(100'000, 'x');
  const std::string path = Write("file", text);
  auto mapped = MappedFile::Open(path);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(mapped->view(), text);
  const auto read = ReadFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, text);
}

TEST_F(MappedFileTest, MovingHandsTheMappingOver) {
  auto first = MappedFile::Open(Write("first", "one"));
  auto second = MappedFile::Open(Write("second", "two"));
  ASSERT_TRUE(first.ok() && second.ok());
  MappedFile moved = *std::move(first);
  EXPECT_EQ(moved.view(), "one");
  EXPECT_EQ(first->size(), 0u);  // NOLINT(bugprone-use-after-move): what is left is part of the contract
  moved = *std::move(second);
  EXPECT_EQ(moved.view(), "two");
}

TEST_F(MappedFileTest, TheMappingOutlivesTheName) {
  const std::string path = Write("file", "still here");
  auto mapped = MappedFile::Open(path);
  ASSERT_TRUE(mapped.ok());
  std::filesystem::remove(path);
  EXPECT_EQ(mapped->view(), "still here");
}

TEST_F(MappedFileTest, WhatIsNotAReadableFileIsRefusedByName) {
  const std::string pipe = directory_.File("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::pair<std::string, absl::StatusCode> table[] = {
      {directory_.File("absent"), absl::StatusCode::kNotFound}, {directory_.path(), absl::StatusCode::kInvalidArgument},
      {Write("empty", ""), absl::StatusCode::kInvalidArgument}, {pipe, absl::StatusCode::kInvalidArgument},
      {"/dev/null", absl::StatusCode::kInvalidArgument},
  };
  for (const auto& [path, code] : table) {
    const absl::Status mapped = MappedFile::Open(path).status();
    const absl::Status read = ReadFile(path).status();
    EXPECT_EQ(mapped.code(), code) << mapped;
    EXPECT_EQ(read.code(), code) << read;
    EXPECT_THAT(std::string(mapped.message()), HasSubstr(path));
    EXPECT_THAT(std::string(read.message()), HasSubstr(path));
  }
}

TEST_F(MappedFileTest, UnreadableFilesArePermissionErrors) {
  if (geteuid() == 0) GTEST_SKIP() << "root reads everything";
  const std::string path = Write("secret", "x");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  EXPECT_EQ(MappedFile::Open(path).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReadFile(path).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(MappedFileTest, ReadFileStopsAtItsLimit) {
  const std::string path = Write("file", "12345");
  EXPECT_TRUE(ReadFile(path, 5).ok());
  const auto read = ReadFile(path, 4);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("5 bytes long, expected at most 4"));
}

TEST_F(MappedFileTest, ReadFileOrPipeTakesWhateverEnds) {
  const std::string path = Write("file", "12345");
  EXPECT_EQ(*ReadFileOrPipe(path, 5), "12345");
  EXPECT_EQ(*ReadFileOrPipe(Write("empty", ""), 5), "");
  const auto read = ReadFileOrPipe(path, 4);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("is it the right file?"));
  EXPECT_EQ(ReadFileOrPipe(directory_.File("absent"), 5).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadFileOrPipe(directory_.path(), 5).ok());

  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(write(ends[1], "from a pipe", 11), 11);
  close(ends[1]);
  EXPECT_EQ(*ReadFileOrPipe("/dev/fd/" + std::to_string(ends[0]), 100), "from a pipe");
  close(ends[0]);
}

}  // namespace
}  // namespace baton
