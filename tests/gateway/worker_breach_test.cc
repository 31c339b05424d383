// Workers that break the protocol: INTERNAL, never a crash, and the next request is served.
#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

struct Breach {
  const char* name;
  std::function<void(const FakeDecode&, FakeDecode::Call&, FakePrefill::Call&)> play;
};

class BreachTest : public PairTest, public ::testing::WithParamInterface<Breach> {};

TEST_P(BreachTest, IsInternal) {
  v1::GenerateRequest request = SimpleRequest(8);
  request.mutable_sampling()->set_temperature(1);
  Running running = Begin(request);
  GetParam().play(decode_, *running.decode, *running.prefill);
  const absl::Status status = running.client->Finish();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_FALSE(running.client->finished.has_value());
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
  EXPECT_TRUE(Idle());
  ExpectServes();
}

INSTANTIATE_TEST_SUITE_P(
    Breaches, BreachTest,
    ::testing::Values(
        Breach{"Gap", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(6, {201}));
               }},
        Breach{"Repeat", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {201}));
                 decode.Push(Tokens(5, {201}));
               }},
        Breach{"FirstTokenAgain", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(4, {200}));
               }},
        Breach{"IdTooLarge", [](const FakeDecode&, auto&, auto& prefill) { prefill.Push(First(1 << 30)); }},
        Breach{"IdNegative", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {-1}));
               }},
        Breach{"EmptyChunk", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {}));
               }},
        Breach{"TooManyTokens", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {201, 202, 203, 204, 205, 206, 207, 208}));
               }},
        Breach{"TwoFirstTokens", [](const FakeDecode&, auto&, auto& prefill) {
                 prefill.Push(First(200));
                 prefill.Push(First(200));
               }},
        Breach{"SecondReservation", [](const FakeDecode& worker, auto& decode, auto&) {
                 decode.Push(Reserve(worker, 2));
               }},
        Breach{"ScoresNobodyAskedFor", [](const FakeDecode&, auto&, auto& prefill) {
                 prefill.Push(Scores(1, {100}));
               }},
        Breach{"DecodeEndsSilently", [](const FakeDecode&, auto& decode, auto&) { decode.Finish(); }},
        Breach{"PrefillEndsSilently", [](const FakeDecode&, auto&, auto& prefill) { prefill.Finish(); }},
        Breach{"StopWithoutStopToken", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(DecodeDone(worker::v1::STOP_TOKEN));
               }},
        Breach{"UnknownEvent", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push({});
               }},
        Breach{"UnknownStatus", [](const FakeDecode&, auto&, auto& prefill) {
                 prefill.Finish(grpc::Status(grpc::StatusCode::UNKNOWN, "?"));
               }}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace baton
