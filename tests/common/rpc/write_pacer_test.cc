#include "common/rpc/write_pacer.h"

#include <memory>

#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"

namespace baton {
namespace {

class OneWriter : public WritePacer::Writer {
 public:
  void WriteDeferred() override { written.Notify(); }  // Twice would abort.
  absl::Notification written;
};

TEST(WritePacerTest, AnIdleServerWritesAtOnce) {
  const WritePacer pacer;
  int64_t begun;
  EXPECT_TRUE(pacer.Begin(&begun));
}

TEST(WritePacerTest, AfterALongWriteOthersWaitAndGetTheirTurn) {
  WritePacer pacer;
  int64_t begun;
  ASSERT_TRUE(pacer.Begin(&begun));
  const auto first = std::make_shared<OneWriter>();
  const auto second = std::make_shared<OneWriter>();
  pacer.End(0);
  pacer.Defer(first);
  pacer.Defer(second);
  first->written.WaitForNotification();
  second->written.WaitForNotification();
}

TEST(WritePacerTest, TheEndLetsGoOfThoseThatWait) {
  const auto writer = std::make_shared<OneWriter>();
  {
    WritePacer pacer;
    pacer.End(0);
    pacer.Defer(writer);
  }
  EXPECT_EQ(writer.use_count(), 1);
}

}  // namespace
}  // namespace baton
