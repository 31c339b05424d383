#include "common/compute/recurrence.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/common/compute/isa_test_fixture.h"
#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

class RecurrenceTest : public IsaTest {};
BATON_INSTANTIATE_ISA_TEST(RecurrenceTest);

TEST_P(RecurrenceTest, ConvIsNearTheReferenceAndHandlesShortRuns) {
  const int64_t channels = 37;
  const std::vector<float> taps = RandomFloats(4 * channels, 1), bias = RandomFloats(channels, 2);
  const std::vector<float> history = RandomFloats(3 * channels, 3);
  for (const Rounding rounding : {Rounding::kNone, Rounding::kBf16}) {
    const bool round = rounding == Rounding::kBf16;
    for (const int64_t tokens : {1, 2, 3, 9}) {
      const std::vector<float> input = RandomFloats(tokens * channels, 4);
      std::vector<float> got(input.size()), want(input.size()), rounded(input.size());
      std::vector<float> got_history = history, want_history = history;
      std::vector<uint16_t> got_history16 = ToBf16(history), want_history16 = got_history16;
      ConvRun run = {.tokens = tokens,
                     .channels = channels,
                     .width = 4,
                     .taps = taps.data(),
                     .bias = bias.data(),
                     .history = round ? static_cast<void*>(got_history16.data()) : got_history.data(),
                     .rounding = rounding,
                     .input = input.data(),
                     .output = got.data(),
                     .rounded = round ? rounded.data() : nullptr};
      CausalConv(run, 0, 20);
      CausalConv(run, 20, channels);
      run.history = round ? static_cast<void*>(want_history16.data()) : want_history.data();
      run.output = want.data();
      run.rounded = nullptr;
      CausalConvReference(run);
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-6);
      EXPECT_EQ(got_history, want_history);
      EXPECT_EQ(got_history16, want_history16);
      if (round) {
        EXPECT_EQ(rounded, RoundedToBf16(got));
      }
    }
  }
}

// Any cut into runs gives the same bits, and the same history in the end.
TEST_P(RecurrenceTest, ConvBitsDoNotDependOnTheCut) {
  const int64_t channels = 21, tokens = 12;
  const std::vector<float> taps = RandomFloats(4 * channels, 1), bias = RandomFloats(channels, 2);
  const std::vector<float> input = RandomFloats(tokens * channels, 4);
  const auto convolve = [&](const std::vector<int64_t>& lengths, std::vector<uint16_t>& history) {
    std::vector<float> output(input.size());
    int64_t at = 0;
    for (const int64_t length : lengths) {
      CausalConv({.tokens = length,
                  .channels = channels,
                  .width = 4,
                  .taps = taps.data(),
                  .bias = bias.data(),
                  .history = history.data(),
                  .rounding = Rounding::kBf16,
                  .input = &input[at * channels],
                  .output = &output[at * channels]},
                 0, channels);
      at += length;
    }
    return output;
  };
  std::vector<uint16_t> history(3 * channels, 0), cut_history(3 * channels, 0);
  const std::vector<float> whole = convolve({12}, history);
  EXPECT_EQ(convolve({1, 1, 2, 5, 3}, cut_history), whole);
  EXPECT_EQ(cut_history, history);
}

struct LruInputs {
  explicit LruInputs(int64_t tokens, int64_t channels, int64_t position)
      : recurrence_gate(RandomFloats(tokens * channels, 2, 2.0f)),
        input_gate(RandomFloats(tokens * channels, 3, 2.0f)),
        x(RandomFloats(tokens * channels, 4)),
        branch(RandomFloats(tokens * channels, 5)),
        state(RandomFloats(channels, 6)),
        output(tokens * channels) {
    // -8 softplus(p) for p in -10 .. 2: decays from next to none (a within 1e-4 of 1) to almost all.
    for (int64_t c = 0; c < channels; ++c) {
      decay.push_back(static_cast<float>(-8.0 * std::log1p(std::exp(-10.0 + 12.0 * c / channels))));
    }
    run = {.tokens = tokens,
           .channels = channels,
           .first_position = position,
           .decay = decay.data(),
           .recurrence_gate = recurrence_gate.data(),
           .input_gate = input_gate.data(),
           .x = x.data(),
           .branch = branch.data(),
           .state = state.data(),
           .output = output.data()};
  }
  LruInputs(const LruInputs&) = delete;

  std::vector<float> decay, recurrence_gate, input_gate, x, branch, state, output;
  RgLruRun run;
};

TEST_P(RecurrenceTest, RgLruIsNearTheReference) {
  for (const int64_t position : {0, 1, 500}) {
    LruInputs got(200, 45, position), want(200, 45, position);
    RgLru(got.run, 0, 45);
    RgLruReference(want.run);
    for (size_t i = 0; i < got.output.size(); ++i) EXPECT_NEAR(got.output[i], want.output[i], 2e-5) << i;
    for (size_t i = 0; i < got.state.size(); ++i) EXPECT_NEAR(got.state[i], want.state[i], 2e-5) << i;
  }
}

// Long memories: 1 - a^2 must not be lost to rounding when a is within an ulp or two of 1.
TEST_P(RecurrenceTest, DampingSurvivesDecaysNearOne) {
  const float decay = -1e-6f, gate = 0.0f, x = 1.0f, branch = 1.0f;
  const double gelu = GeluReference(branch);
  float state = 0.0f, output = 0.0f;
  RgLru({.tokens = 1,
         .channels = 1,
         .first_position = 9,
         .decay = &decay,
         .recurrence_gate = &gate,
         .input_gate = &gate,
         .x = &x,
         .branch = &branch,
         .state = &state,
         .output = &output},
        0, 1);
  EXPECT_NEAR(output, 0.5 * std::sqrt(-std::expm1(-1e-6)) * gelu, 1e-9);
}

TEST_P(RecurrenceTest, PositionZeroForgetsTheStateAndDoesNotDamp) {
  LruInputs inputs(1, 3, 0);
  inputs.state = {100.0f, -100.0f, NAN};
  RgLru(inputs.run, 0, 3);
  for (int c = 0; c < 3; ++c) {
    const double gated = inputs.x[c] / (1.0 + std::exp(-inputs.input_gate[c]));
    EXPECT_NEAR(inputs.state[c], gated, 1e-6);
  }
}

// Any cut into runs and channel ranges gives the same bits.
TEST_P(RecurrenceTest, BitsDoNotDependOnTheCut) {
  const int64_t tokens = 30, channels = 45;
  LruInputs whole(tokens, channels, 0), cut(tokens, channels, 0);
  whole.run.rounding = cut.run.rounding = Rounding::kBf16;
  RgLru(whole.run, 0, channels);
  int64_t at = 0;
  for (const int64_t length : {1, 7, 16, 6}) {
    RgLruRun part = cut.run;
    part.tokens = length;
    part.first_position = at;
    part.recurrence_gate += at * channels;
    part.input_gate += at * channels;
    part.x += at * channels;
    part.branch += at * channels;
    part.output += at * channels;
    for (const auto& [begin, end] : {std::pair{0, 16}, {16, 17}, {17, 45}}) RgLru(part, begin, end);
    at += length;
  }
  EXPECT_EQ(cut.output, whole.output);
  EXPECT_EQ(cut.state, whole.state);
  EXPECT_EQ(whole.output, RoundedToBf16(whole.output));
}

}  // namespace
}  // namespace baton
