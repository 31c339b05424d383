#include "gateway/text_lane.h"

#include <atomic>
#include <future>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

namespace baton {
namespace {

constexpr size_t kLarge = TextLane::kSmallBytes + 1;

TEST(TextLaneTest, SmallWorkRunsHereAndLargeElsewhere) {
  TextLane lane;
  std::thread::id small;
  std::promise<std::thread::id> large;
  EXPECT_TRUE(lane.Run(TextLane::kSmallBytes, [&] { small = std::this_thread::get_id(); }));
  EXPECT_EQ(small, std::this_thread::get_id());
  EXPECT_TRUE(lane.Run(kLarge, [&] { large.set_value(std::this_thread::get_id()); }));
  EXPECT_NE(large.get_future().get(), std::this_thread::get_id());
}

TEST(TextLaneTest, WaitingIsBounded) {
  std::atomic<int> ran = 0;
  std::promise<void> go;
  std::shared_future<void> gone = go.get_future().share();
  std::promise<void> begun;
  std::promise<void> last;
  TextLane lane(/*threads=*/1, /*max_waiting=*/1);
  EXPECT_TRUE(lane.Run(kLarge, [&] {
    begun.set_value();
    gone.wait();
    ++ran;
  }));
  begun.get_future().wait();
  EXPECT_TRUE(lane.Run(kLarge, [&] {
    ++ran;
    last.set_value();
  }));
  EXPECT_FALSE(lane.Run(kLarge, [&] { ++ran; }));
  // Small ones pass by.
  EXPECT_TRUE(lane.Run(1, [&] { ++ran; }));
  EXPECT_EQ(ran, 1);
  go.set_value();
  last.get_future().wait();
  EXPECT_EQ(ran, 3);
}

TEST(TextLaneTest, DestructionDropsWhatWaits) {
  auto held = std::make_shared<int>(1);
  std::promise<void> begun;
  std::promise<void> go;
  std::future<void> gone = go.get_future();
  std::thread releaser;
  {
    TextLane lane(1, 10);
    lane.Run(kLarge, [&] {
      begun.set_value();
      gone.wait();
    });
    begun.get_future().wait();
    lane.Run(kLarge, [held] {});
    EXPECT_EQ(held.use_count(), 2);
    releaser = std::thread([&] { go.set_value(); });
  }
  releaser.join();
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace baton
