#include "common/base/full_io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "common/base/file_descriptor.h"

namespace baton {
namespace {

// More than a pipe holds, so that neither side is done at once.
TEST(FullIoTest, GoesOnUntilAllIsThrough) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const FileDescriptor reader(ends[0]);
  FileDescriptor writer(ends[1]);
  std::string sent;
  for (int i = 0; i < 1'000'000; ++i) sent.push_back(static_cast<char>(i * 7));
  std::string received = "before ";
  std::thread reading([&] { EXPECT_EQ(ReadUpTo(reader.get(), sent.size(), &received), 0); });
  EXPECT_EQ(WriteAll(writer.get(), sent), 0);
  reading.join();
  EXPECT_EQ(received, "before " + sent);
}

TEST(FullIoTest, TheEndOfTheFileGivesFewer) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const FileDescriptor reader(ends[0]);
  FileDescriptor writer(ends[1]);
  EXPECT_EQ(WriteAll(writer.get(), "abc"), 0);
  writer = FileDescriptor();
  std::string received;
  EXPECT_EQ(ReadUpTo(reader.get(), 10, &received), 0);
  EXPECT_EQ(received, "abc");
}

TEST(FullIoTest, WritesAtAPlace) {
  const FileDescriptor file(memfd_create("full_io_test", MFD_CLOEXEC));
  EXPECT_EQ(WriteAll(file.get(), "0123456789"), 0);
  EXPECT_EQ(WriteAllAt(file.get(), 3, "abc"), 0);
  EXPECT_EQ(WriteAll(file.get(), "!"), 0) << "where the first write ended";
  EXPECT_EQ(lseek(file.get(), 0, SEEK_SET), 0);
  std::string received;
  EXPECT_EQ(ReadUpTo(file.get(), 100, &received), 0);
  EXPECT_EQ(received, "012abc6789!");
  EXPECT_EQ(WriteAllAt(-1, 0, "a"), EBADF);
}

TEST(FullIoTest, SaysWhatWentWrong) {
  const FileDescriptor full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  const int error = WriteAll(full.get(), "abc");
  EXPECT_EQ(error, ENOSPC);
  EXPECT_TRUE(MeansDiskFull(error));
  EXPECT_FALSE(MeansDiskFull(EIO));
  std::string received = "kept";
  EXPECT_EQ(ReadUpTo(full.get(), 10, &received), EBADF);
  EXPECT_EQ(received, "kept");
}

}  // namespace
}  // namespace baton
