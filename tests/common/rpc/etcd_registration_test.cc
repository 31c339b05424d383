// A worker's record in etcd: there while the worker is, back when etcd lost it, gone when it is withdrawn.
#include "common/rpc/etcd_registration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/common/rpc/fake_etcd.h"
#include "tests/eventually.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

const WorkerRecord kRecord = {"decode", "10.0.0.7:7201", "gemma", "b1"};
constexpr char kKey[] = "/baton/workers/decode/b1";

EtcdOptions OptionsFor(std::vector<std::string> endpoints) {
  EtcdOptions options;
  options.endpoints = std::move(endpoints);
  options.lease_seconds = 1;
  return options;
}

TEST(EtcdRegistrationTest, IsThereUntilWithdrawn) {
  FakeEtcd etcd;
  EtcdRegistration registration(OptionsFor({etcd.address()}), kRecord);
  ASSERT_TRUE(Eventually([&] { return etcd.Keys().count(kKey) == 1; }));
  EXPECT_THAT(etcd.Keys(), ElementsAre(Pair(kKey, SerializeWorkerRecord(kRecord))));
  registration.Withdraw();
  EXPECT_THAT(etcd.Keys(), IsEmpty());
}

TEST(EtcdRegistrationTest, ComesBackWhenEtcdForgotIt) {
  FakeEtcd etcd;
  EtcdRegistration registration(OptionsFor({etcd.address()}), kRecord);
  ASSERT_TRUE(Eventually([&] { return etcd.Keys().count(kKey) == 1; }));
  etcd.ForgetLeases();
  ASSERT_THAT(etcd.Keys(), IsEmpty());
  EXPECT_TRUE(Eventually([&] { return etcd.Keys().count(kKey) == 1; }));
}

TEST(EtcdRegistrationTest, TriesTheMembersInTurn) {
  FakeEtcd gone;
  const std::string dead = gone.address();
  gone.Stop();
  FakeEtcd etcd;
  EtcdRegistration registration(OptionsFor({dead, etcd.address()}), kRecord);
  EXPECT_TRUE(Eventually([&] { return etcd.Keys().count(kKey) == 1; }));
}

TEST(EtcdRegistrationTest, WithoutEtcdWithdrawingEnds) {
  FakeEtcd gone;
  const std::string dead = gone.address();
  gone.Stop();
  EtcdRegistration registration(OptionsFor({dead}), kRecord);
  registration.Withdraw();
}

TEST(EtcdOptionsTest, FilesAreCheckedBeforeAnythingStarts) {
  EtcdOptions options = OptionsFor({"127.0.0.1:2379"});
  EXPECT_TRUE(CheckEtcdOptions(options).ok());
  options.tls.ca = "/no/such/ca.pem";
  EXPECT_THAT(std::string(CheckEtcdOptions(options).message()), HasSubstr("/no/such/ca.pem"));
  options.tls.ca.clear();
  options.tls.cert = "cert.pem";
  EXPECT_THAT(std::string(CheckEtcdOptions(options).message()), HasSubstr("--etcd-key"));
  options.tls.key = "key.pem";
  EXPECT_THAT(std::string(CheckEtcdOptions(options).message()), HasSubstr("--etcd-ca"));
}

TEST(EtcdPrefixTest, EndsBehindEveryKeyWithIt) {
  EXPECT_EQ(EtcdPrefixEnd("/a/"), "/a0");
  EXPECT_EQ(EtcdPrefixEnd("a\xff"), "b");
  EXPECT_EQ(EtcdPrefixEnd("\xff"), std::string(1, '\0'));
}

}  // namespace
}  // namespace baton
