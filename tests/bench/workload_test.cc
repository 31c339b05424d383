#include "bench/serve_workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace baton {
namespace {

using ::testing::HasSubstr;

LengthDistribution Lengths(const std::string& text) { return LengthDistribution::Parse(text).value(); }

TEST(RandomTest, StreamsOfASeedDiffer) {
  EXPECT_EQ(Random(1, 2).Next(), Random(1, 2).Next());
  EXPECT_NE(Random(1, 2).Next(), Random(1, 3).Next());
  EXPECT_NE(Random(1, 2).Next(), Random(2, 1).Next());
}

TEST(RandomTest, IntegersCoverTheirRangeAndNoMore) {
  Random random(7);
  int seen[3] = {};
  for (int i = 0; i < 3000; ++i) {
    const int64_t value = random.Integer(-1, 1);
    ASSERT_GE(value, -1);
    ASSERT_LE(value, 1);
    ++seen[value + 1];
  }
  for (int count : seen) EXPECT_NEAR(count, 1000, 150);
  EXPECT_EQ(random.Integer(5, 5), 5);
}

TEST(RandomTest, MomentsAreRight) {
  Random random(3);
  constexpr int kDraws = 100'000;
  double exponential = 0;
  double normal = 0;
  double square = 0;
  for (int i = 0; i < kDraws; ++i) {
    exponential += random.Exponential(2.5);
    const double z = random.Normal();
    normal += z;
    square += z * z;
  }
  EXPECT_NEAR(exponential / kDraws, 2.5, 0.05);
  EXPECT_NEAR(normal / kDraws, 0, 0.02);
  EXPECT_NEAR(square / kDraws, 1, 0.02);
}

TEST(LengthDistributionTest, SaysWhatItSays) {
  Random random(1);
  EXPECT_EQ(Lengths("fixed:17").Sample(random), 17);
  double uniform = 0;
  double lognormal = 0;
  constexpr int kDraws = 50'000;
  for (int i = 0; i < kDraws; ++i) {
    const int64_t length = Lengths("uniform:3:7").Sample(random);
    ASSERT_GE(length, 3);
    ASSERT_LE(length, 7);
    uniform += static_cast<double>(length);
    lognormal += static_cast<double>(Lengths("lognormal:400:0.8").Sample(random));
  }
  EXPECT_NEAR(uniform / kDraws, 5, 0.05);
  EXPECT_NEAR(lognormal / kDraws, 400, 8);
  EXPECT_EQ(Lengths("lognormal:50:0").Sample(random), 50);
}

TEST(LengthDistributionTest, NonsenseIsRefused) {
  for (const char* text : {"",
                           "fixed",
                           "fixed:",
                           "fixed:0",
                           "fixed:-3",
                           "fixed:1:2",
                           "fixed:x",
                           "fixed:99999999999",
                           "uniform:3",
                           "uniform:5:4",
                           "uniform:0:4",
                           "lognormal:10",
                           "lognormal:0:1",
                           "lognormal:nan:1",
                           "lognormal:10:nan",
                           "lognormal:10:-1",
                           "lognormal:inf:1",
                           "lognormal:10:99",
                           "normal:3:4",
                           "12"}) {
    EXPECT_EQ(LengthDistribution::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

WorkloadOptions Options() {
  WorkloadOptions options;
  options.rate = 100;
  options.duration = 50;
  options.warmup = 10;
  options.prompt_tokens = Lengths("uniform:5:60");
  options.output_tokens = Lengths("fixed:20");
  options.max_tokens = 100;
  options.vocab_size = 1000;
  return options;
}

TEST(WorkloadTest, ArrivalsArePoisson) {
  const Workload workload = MakeWorkload(Options()).value();
  EXPECT_NEAR(workload.items.size(), 6000, 300);
  double before = 0;
  double gaps_squared = 0;
  for (size_t i = 0; i < workload.items.size(); ++i) {
    const WorkItem& item = workload.items[i];
    EXPECT_EQ(item.index, static_cast<int64_t>(i));
    ASSERT_GT(item.arrival, before);
    gaps_squared += (item.arrival - before) * (item.arrival - before);
    before = item.arrival;
    EXPECT_EQ(item.measured, item.arrival >= 10);
  }
  EXPECT_LT(before, 60);
  // An exponential gap's mean square is twice its squared mean.
  EXPECT_NEAR(gaps_squared / workload.items.size(), 2 * 0.01 * 0.01, 0.00003);
  EXPECT_EQ(workload.measure_begin, 10);
  EXPECT_EQ(workload.measure_end, 60);
  EXPECT_EQ(workload.cut, 0);
}

TEST(WorkloadTest, RequestsLimitWhatIsMeasured) {
  WorkloadOptions options = Options();
  options.duration = 0;
  options.requests = 40;
  const Workload workload = MakeWorkload(options).value();
  int measured = 0;
  for (const WorkItem& item : workload.items) measured += item.measured ? 1 : 0;
  EXPECT_EQ(measured, 40);
  EXPECT_EQ(workload.measure_end, workload.items.back().arrival);
}

TEST(WorkloadTest, SameSeedSameRequestsWhateverTheRate) {
  WorkloadOptions slow = Options();
  WorkloadOptions fast = Options();
  fast.rate = 300;
  const Workload a = MakeWorkload(slow).value();
  const Workload b = MakeWorkload(fast).value();
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(a.items[i].prompt_tokens, b.items[i].prompt_tokens);
    EXPECT_EQ(MakePrompt(slow, a.items[i]), MakePrompt(fast, b.items[i]));
  }
  EXPECT_NE(MakePrompt(slow, a.items[0]), MakePrompt(slow, a.items[1]));
  slow.seed = 2;
  EXPECT_NE(MakePrompt(slow, a.items[0]), MakePrompt(fast, a.items[0]));
}

TEST(WorkloadTest, PromptsAvoidControlSymbols) {
  const WorkloadOptions options = Options();
  const Workload workload = MakeWorkload(options).value();
  for (const WorkItem& item : workload.items) {
    const std::vector<int32_t> ids = MakePrompt(options, item);
    ASSERT_EQ(static_cast<int64_t>(ids.size()), item.prompt_tokens);
    for (int32_t id : ids) {
      ASSERT_GE(id, kFirstPlainToken);
      ASSERT_LT(id, options.vocab_size);
    }
  }
}

TEST(WorkloadTest, PromptsArePiecesOfAText) {
  WorkloadOptions options = Options();
  options.text_ids = {1, 2, 3};
  const WorkItem item = MakeWorkload(options)->items[0];
  const std::vector<int32_t> ids = MakePrompt(options, item);
  for (size_t i = 1; i < ids.size(); ++i) EXPECT_EQ(ids[i], ids[i - 1] % 3 + 1);
}

TEST(WorkloadTest, PromptsMayBeginAlike) {
  WorkloadOptions options = Options();
  const Workload workload = MakeWorkload(options).value();
  options.shared_prefix = 30;
  const std::vector<int32_t> first = MakePrompt(options, workload.items[0]);
  bool longer = false;
  for (const WorkItem& item : workload.items) {
    const std::vector<int32_t> ids = MakePrompt(options, item);
    ASSERT_EQ(static_cast<int64_t>(ids.size()), item.prompt_tokens);
    const size_t shared = std::min<size_t>({ids.size(), first.size(), 30});
    ASSERT_TRUE(std::equal(ids.begin(), ids.begin() + shared, first.begin()));
    if (item.index > 0 && ids.size() > 40 && first.size() > 40) {
      EXPECT_FALSE(std::equal(ids.begin() + 30, ids.begin() + 40, first.begin() + 30));
      longer = true;
    }
  }
  EXPECT_TRUE(longer || first.size() <= 40);
}

TEST(WorkloadTest, LongDrawsAreCutToTheModel) {
  WorkloadOptions options = Options();
  options.max_tokens = 50;
  const Workload workload = MakeWorkload(options).value();
  EXPECT_GT(workload.cut, 0);
  for (const WorkItem& item : workload.items) {
    ASSERT_GE(item.prompt_tokens, 1);
    ASSERT_GE(item.output_tokens, 1);
    ASSERT_LE(item.prompt_tokens + item.output_tokens, 50);
  }
}

TEST(WorkloadTest, ImpossibleRunsAreRefused) {
  WorkloadOptions too_long = Options();
  too_long.max_tokens = 24;
  EXPECT_THAT(std::string(MakeWorkload(too_long).status().message()), HasSubstr("at least 25"));
  WorkloadOptions too_many = Options();
  too_many.rate = 1e6;
  EXPECT_THAT(std::string(MakeWorkload(too_many).status().message()), HasSubstr("more than"));
  WorkloadOptions none = Options();
  none.rate = 1e-9;
  EXPECT_THAT(std::string(MakeWorkload(none).status().message()), HasSubstr("no request"));
}

}  // namespace
}  // namespace baton
