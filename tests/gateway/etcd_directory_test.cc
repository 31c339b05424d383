// What a gateway reads from etcd: all workers, every change, and what stays when etcd goes.
#include "gateway/etcd_directory.h"

#include <atomic>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "tests/common/rpc/fake_etcd.h"
#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

class EtcdDirectoryTest : public ::testing::Test {
 protected:
  ~EtcdDirectoryTest() override {
    if (directory_ != nullptr) directory_->Stop();
  }
  void Start(std::vector<std::string> endpoints) {
    EtcdOptions options;
    options.endpoints = std::move(endpoints);
    directory_ = std::make_unique<EtcdDirectory>(options);
    directory_->Start([this] { ++changes_; });
  }
  static std::string Key(const std::string& boot) { return "/baton/workers/decode/" + boot; }
  static void Register(FakeEtcd* etcd, const std::string& boot) {
    etcd->Put(Key(boot), SerializeWorkerRecord({"decode", "127.0.0.1:1", "gemma", boot}));
  }
  // The boot ids that are known, in order, become `wanted`.
  bool Becomes(const std::string& wanted) {
    return Eventually([&] { return Known() == wanted; });
  }
  std::string Known() {
    const absl::StatusOr<std::vector<WorkerRecord>> workers = directory_->Workers();
    if (!workers.ok()) return "unknown";
    std::string boots;
    for (const WorkerRecord& worker : *workers) boots += worker.boot_id + " ";
    return boots;
  }

  std::unique_ptr<EtcdDirectory> directory_;
  std::atomic<int> changes_ = 0;
};

TEST_F(EtcdDirectoryTest, FollowsWhatChanges) {
  FakeEtcd etcd;
  Register(&etcd, "a");
  etcd.Put("/baton/worker", "not below the prefix");
  etcd.Put(Key("junk"), "no record");
  Start({etcd.address()});
  ASSERT_TRUE(Becomes("a ")) << Known();
  Register(&etcd, "b");
  ASSERT_TRUE(Becomes("a b ")) << Known();
  etcd.Delete(Key("a"));
  ASSERT_TRUE(Becomes("b ")) << Known();
  // A record that is overwritten with junk is none.
  etcd.Put(Key("b"), "{}");
  ASSERT_TRUE(Becomes("")) << Known();
  EXPECT_GE(changes_, 4);
}

TEST_F(EtcdDirectoryTest, AWatchThatEndsIsMadeAnewAndMissesNothing) {
  FakeEtcd etcd;
  Register(&etcd, "a");
  Start({etcd.address()});
  ASSERT_TRUE(Becomes("a "));
  etcd.EndWatches("compacted");
  etcd.Delete(Key("a"));
  Register(&etcd, "b");
  EXPECT_TRUE(Becomes("b ")) << Known();
}

TEST_F(EtcdDirectoryTest, AnOutageChangesNothing) {
  FakeEtcd other;
  Register(&other, "c");
  auto etcd = std::make_unique<FakeEtcd>();
  Register(etcd.get(), "a");
  Start({etcd->address()});
  ASSERT_TRUE(Becomes("a "));
  const int port = etcd->port();
  const int before = changes_;
  etcd.reset();
  ASSERT_TRUE(Eventually([&] { return changes_ > before; }));
  EXPECT_EQ(Known(), "a ");
  // Back, with other contents.
  FakeEtcd again(port);
  Register(&again, "d");
  EXPECT_TRUE(Becomes("d ")) << Known();
}

TEST_F(EtcdDirectoryTest, NothingIsKnownBeforeTheFirstAnswer) {
  FakeEtcd gone;
  const std::string dead = gone.address();
  gone.Stop();
  Start({dead});
  ASSERT_TRUE(Eventually([&] { return changes_ > 0; }));
  const absl::Status status = directory_->Workers().status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(dead));
}

}  // namespace
}  // namespace baton
