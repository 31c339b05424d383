// More sequences than memory: some wait on disk, all end as they would have alone, and everything is free again.
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/rpc/status_mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;
using worker::v1::Reservation;

constexpr int kPromptTokens = 20;
constexpr int kNewTokens = 300;
constexpr int kReserved = 16;

int64_t BytesFor(const std::string& model, int64_t tokens) {
  return WorkerModel(model).MakeStateLayout(DecodeRunTokens({}))->BytesFor(tokens);
}

DecodeWorkerOptions Options(const std::string& model, int64_t memory) {
  DecodeWorkerOptions options;
  options.model = model;
  options.memory = memory;
  options.engine.reserve_output = kReserved;
  options.engine.spill_directory = testing::TempDir();
  return options;
}

class MemoryPressureTest : public testing::TestWithParam<std::string> {
 protected:
  // Requests whose prompts and priorities differ.
  std::vector<Expectation> MakeExpectations(int count) {
    std::vector<Expectation> all;
    for (int i = 0; i < count; ++i) {
      auto request = MakeRequest(LoopModel(GetParam()), RandomPrompt(kPromptTokens, 10 + i), kNewTokens);
      request.set_priority(i == 2 ? 5 : 0);
      all.push_back(RunPlainLoop(GetParam(), request));
    }
    return all;
  }
};

TEST_P(MemoryPressureTest, WhoeverWaitsOnDiskContinuesBitForBit) {
  const std::vector<Expectation> expected = MakeExpectations(5);
  // All have room for their first tokens; two or three can come to their ends at a time.
  const int64_t first = BytesFor(GetParam(), kPromptTokens + kReserved);
  const int64_t whole = BytesFor(GetParam(), kPromptTokens + kNewTokens);
  DecodeWorker worker(Options(GetParam(), std::max(5 * first, first + 2 * whole)));
  std::vector<std::unique_ptr<RunStream>> runs;
  std::vector<Reservation> reservations;
  for (const Expectation& one : expected) {
    runs.push_back(std::make_unique<RunStream>(worker.stub(), one.request));
    const auto reservation = runs.back()->Reserve();
    ASSERT_TRUE(reservation.has_value());
    EXPECT_EQ(reservation->bytes(), first);
    reservations.push_back(*reservation);
  }
  std::vector<RunStream::Result> results(expected.size());
  std::vector<std::thread> readers;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(HandOver(worker.stub(), reservations[i], expected[i].messages).ok());
    readers.emplace_back([&, i] { results[i] = runs[i]->End(); });
  }
  for (std::thread& reader : readers) reader.join();
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(results[i].status.ok()) << results[i].status;
    EXPECT_THAT(results[i].tokens, ElementsAreArray(expected[i].tokens)) << "request " << i;
  }
  EXPECT_GT(worker.Metric("baton_state_spills_total"), 0);
  EXPECT_EQ(worker.Metric("baton_state_spill_failures_total"), 0);
  WaitUntil([&] { return worker.Metric("baton_sequences_spilled") == 0; });
  ExpectNothingHeld(worker);
}

// With nowhere to wait, the last one is told so, and the others go on.
TEST_P(MemoryPressureTest, WithoutADiskTheLastOneEnds) {
  const std::vector<Expectation> expected = MakeExpectations(2);
  const int64_t whole = BytesFor(GetParam(), kPromptTokens + kNewTokens);
  DecodeWorkerOptions options =
      Options(GetParam(), std::max(whole, 2 * BytesFor(GetParam(), kPromptTokens + kReserved)));
  options.engine.spill_directory = "/nowhere/at/all";
  DecodeWorker worker(options);
  RunStream first(worker.stub(), expected[0].request);
  RunStream second(worker.stub(), expected[1].request);
  const auto reservation = first.Reserve();
  const auto other = second.Reserve();
  ASSERT_TRUE(reservation.has_value() && other.has_value());
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, expected[0].messages).ok());
  ASSERT_TRUE(HandOver(worker.stub(), *other, expected[1].messages).ok());
  RunStream::Result last;
  std::thread reader([&] { last = second.End(); });
  EXPECT_THAT(first.End().tokens, ElementsAreArray(expected[0].tokens));
  reader.join();
  EXPECT_TRUE(absl::IsResourceExhausted(last.status)) << last.status;
  EXPECT_EQ(ErrorReason(last.status), "DECODE_MEMORY_FULL");
  EXPECT_THAT(std::string(last.status.message()), HasSubstr("/nowhere/at/all"));
  EXPECT_GE(worker.Metric("baton_state_spill_failures_total"), 1);
  ExpectNothingHeld(worker);
}

// Callers that go away while their sequences wait, or move, leave nothing behind.
TEST_P(MemoryPressureTest, CancelledWhileWaiting) {
  const std::vector<Expectation> expected = MakeExpectations(4);
  const int64_t first = BytesFor(GetParam(), kPromptTokens + kReserved);
  const int64_t whole = BytesFor(GetParam(), kPromptTokens + kNewTokens);
  DecodeWorker worker(Options(GetParam(), std::max(4 * first, whole)));
  std::vector<std::unique_ptr<RunStream>> runs;
  std::vector<Reservation> reservations;
  for (const Expectation& one : expected) {
    runs.push_back(std::make_unique<RunStream>(worker.stub(), one.request));
    const auto reservation = runs.back()->Reserve();
    ASSERT_TRUE(reservation.has_value());
    reservations.push_back(*reservation);
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(HandOver(worker.stub(), reservations[i], expected[i].messages).ok());
  }
  WaitUntil([&] { return worker.Metric("baton_state_spills_total") > 0; });
  for (size_t i = 1; i < runs.size(); ++i) runs[i]->Cancel();
  EXPECT_THAT(runs[0]->End().tokens, ElementsAreArray(expected[0].tokens));
  for (size_t i = 1; i < runs.size(); ++i) runs[i]->End();
  WaitUntil([&] { return worker.Metric("baton_sequences_spilled") == 0; });
  ExpectNothingHeld(worker);
}

INSTANTIATE_TEST_SUITE_P(Bundled, MemoryPressureTest, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) { return info.param == "tiny-gemma2" ? "Gemma2" : "RecurrentGemma"; });

}  // namespace
}  // namespace baton
