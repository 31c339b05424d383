#include "common/rpc/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "gtest/gtest.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

// What systemd has at the other end.
class ServiceManagerTest : public testing::Test {
 protected:
  ~ServiceManagerTest() override { unsetenv("NOTIFY_SOCKET"); }

  void Listen(const std::string& address) {
    socket_ = FileDescriptor(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, address.data(), address.size());
    if (address[0] == '@') name.sun_path[0] = '\0';
    const size_t size = offsetof(sockaddr_un, sun_path) + address.size();
    ASSERT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&name), size), 0) << std::strerror(errno);
  }

  // The next datagram; "" when none was sent.
  std::string Received() {
    char buffer[256];
    const ssize_t bytes = recv(socket_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    return bytes < 0 ? "" : std::string(buffer, bytes);
  }

  std::string path() const { return absl::StrCat(directory_.path(), "/notify"); }

 private:
  TemporaryDirectory directory_;
  FileDescriptor socket_;
};

TEST_F(ServiceManagerTest, IsToldThatWeServeAndThatWeDrain) {
  Listen(path());
  setenv("NOTIFY_SOCKET", path().c_str(), 1);
  TellServiceManager(ServingNotice());
  EXPECT_EQ(Received(), "READY=1");
  TellServiceManager(DrainingNotice(absl::Seconds(30)));
  EXPECT_EQ(Received(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=90000000");
}

TEST_F(ServiceManagerTest, MayListenAtANameWithoutAFile) {
  const std::string name = absl::StrCat("@baton_test_", getpid());
  Listen(name);
  EXPECT_TRUE(SendNotice(name, "READY=1").ok());
  EXPECT_EQ(Received(), "READY=1");
}

TEST_F(ServiceManagerTest, IsNotToldWhenThereIsNone) {
  Listen(path());
  TellServiceManager(ServingNotice());
  EXPECT_EQ(Received(), "");
}

TEST_F(ServiceManagerTest, BadAddressesAreErrors) {
  for (const std::string& address : {std::string(), std::string("/"), std::string("@"), std::string("relative"),
                                     std::string("vsock:2:1234"), "/" + std::string(200, 'x')}) {
    EXPECT_EQ(SendNotice(address, "READY=1").code(), absl::StatusCode::kInvalidArgument) << address;
  }
  EXPECT_EQ(SendNotice(path(), "READY=1").code(), absl::StatusCode::kNotFound);
  setenv("NOTIFY_SOCKET", path().c_str(), 1);
  TellServiceManager(ServingNotice());  // a line in the log, nothing worse
}

}  // namespace
}  // namespace baton
