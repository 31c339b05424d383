// Sequences that are kept end at the very token at which the gateway's reader would find their end: the one that
// completes a stop string, wherever the sequence began, or the one at which they are cut off; and go on from there, bit
// for bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/mapped_file.h"
#include "common/rpc/worker_request.h"
#include "common/text/tokenizer.h"
#include "decode/sample_end.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using testing::ElementsAreArray;
using worker::v1::DecodeRequest;
using worker::v1::SessionKey;

const Tokenizer& TheTokenizer() {
  static const Tokenizer* const tokenizer =
      Tokenizer::FromModel(ReadFile(BATON_BUNDLED_MODELS "/tiny-gemma2/tokenizer.model").value()).value().release();
  return *tokenizer;
}

// Index of the first token by which the text holds `stop`, -1 when none does. Not by the code under test.
int EndOf(const std::vector<int32_t>& output, const std::string& stop) {
  for (size_t count = 1; count <= output.size(); ++count) {
    if (TheTokenizer().Decode(absl::MakeConstSpan(output).first(count)).find(stop) != std::string::npos) {
      return static_cast<int>(count) - 1;
    }
  }
  return -1;
}

std::vector<int32_t> OutputOf(const Expectation& expected) {
  std::vector<int32_t> output = {expected.first_token};
  output.insert(output.end(), expected.tokens.begin(), expected.tokens.end());
  return output;
}

// A stop string that begins within token `first` and ends within token `last`.
std::string StopAcross(const std::vector<int32_t>& output, int first, int last) {
  std::string stop;
  for (int i = first; i <= last; ++i) stop += TheTokenizer().TokenBytes(output[static_cast<size_t>(i)]);
  const size_t head = TheTokenizer().TokenBytes(output[static_cast<size_t>(first)]).size() - 1;
  const size_t tail = TheTokenizer().TokenBytes(output[static_cast<size_t>(last)]).size() - 1;
  return first == last ? stop : stop.substr(head, stop.size() - head - tail);
}

class KeptEndTest : public testing::TestWithParam<const char*> {
 protected:
  KeptEndTest() : worker_(Options()) {}

  static DecodeWorkerOptions Options() {
    DecodeWorkerOptions options;
    options.model = GetParam();
    options.sessions.ttl = absl::Hours(1);
    options.sessions.memory_bytes = int64_t{1} << 28;
    options.engine.step_delay = absl::Milliseconds(2);
    return options;
  }

  SessionKey NewKey() {
    SessionKey key;
    key.set_id(std::string(kSessionIdBytes, next_key_++));
    key.set_identity(std::string(kIdentityBytes, 'i'));
    return key;
  }

  // A sampled sequence of `count` tokens that say some ASCII text each, so that any part of it is a stop string.
  Expectation AsciiExpectation(int count) {
    DecodeRequest request = MakeRequest(LoopModel(GetParam()), RandomPrompt(40, 5), count);
    request.mutable_sampling()->set_temperature(2);
    request.mutable_sampling()->set_seed(7);
    for (int32_t id = 0; id < TheTokenizer().vocab_size(); ++id) {
      const std::string bytes = TheTokenizer().TokenBytes(id);
      const bool ascii = std::all_of(bytes.begin(), bytes.end(), [](char c) { return c >= 0; });
      if (ascii && bytes.size() > 1) request.mutable_sampling()->add_allowed_token_ids(id);
    }
    return RunPlainLoop(GetParam(), request);
  }

  // `local`: the worker computes the prompt; else the plain loop's state is handed over.
  RunStream::Result Run(const Expectation& expected, const DecodeRequest& request, bool local) {
    DecodeRequest asked = request;
    asked.set_compute_prompt(local);
    RunStream run(worker_.stub(), asked);
    const auto reservation = run.Reserve();
    EXPECT_TRUE(reservation.has_value());
    if (!local && reservation.has_value()) {
      EXPECT_TRUE(HandOver(worker_.stub(), *reservation, expected.messages).ok());
    }
    return run.End();
  }

  // What was kept goes on as if everything had been sent again. `kept`: prompt and output.
  void ExpectGoesOn(const SessionKey& key, std::vector<int32_t> kept, bool last_is_pending = true) {
    const auto cached = static_cast<int64_t>(kept.size()) - (last_is_pending ? 1 : 0);
    for (const int32_t id : RandomPrompt(7, 99)) kept.push_back(id);
    DecodeRequest request = MakeRequest(LoopModel(GetParam()), kept, 12);
    request.mutable_sampling()->set_temperature(1);
    request.set_logprobs(true);
    const Expectation expected = RunPlainLoop(GetParam(), request);
    request.set_compute_prompt(true);
    *request.mutable_session() = key;
    RunStream run(worker_.stub(), request);
    ASSERT_TRUE(run.Reserve().has_value()) << "what was kept is something else";
    const RunStream::Result got = run.End();
    ASSERT_TRUE(got.status.ok()) << got.status;
    EXPECT_EQ(got.first->cached_tokens(), cached);
    EXPECT_EQ(got.first->id(), expected.first_token);
    EXPECT_THAT(got.tokens, ElementsAreArray(expected.tokens));
    for (size_t i = 0; i < expected.logprobs.size(); ++i) {
      EXPECT_EQ(got.logprobs[i].logprob(), expected.logprobs[i].logprob());
    }
  }

  std::vector<int32_t> PromptAnd(const Expectation& expected, const std::vector<int32_t>& output, size_t count) {
    std::vector<int32_t> tokens(expected.request.tokens().begin(), expected.request.tokens().end());
    tokens.insert(tokens.end(), output.begin(), output.begin() + static_cast<int64_t>(count));
    return tokens;
  }

  // Ends at token `end` of the output with `reason`, and is kept with it.
  void ExpectEnds(const Expectation& expected, DecodeRequest request, int end, bool local,
                  worker::v1::DoneReason reason = worker::v1::STOP_STRING) {
    const std::vector<int32_t> output = OutputOf(expected);
    const SessionKey key = NewKey();
    *request.mutable_keep() = key;
    const RunStream::Result got = Run(expected, request, local);
    ASSERT_TRUE(got.status.ok()) << got.status;
    EXPECT_EQ(got.reason, reason);
    EXPECT_THAT(got.tokens, ElementsAreArray(output.begin() + 1, output.begin() + 1 + end));
    const bool with_stop_token = reason == worker::v1::STOP_TOKEN;
    ExpectGoesOn(key, PromptAnd(expected, output, static_cast<size_t>(with_stop_token ? end : end + 1)),
                 !with_stop_token);
  }

  DecodeWorker worker_;
  char next_key_ = 'a';
};

TEST_P(KeptEndTest, TheTokenThatCompletesAStopStringIsTheLast) {
  const Expectation expected = AsciiExpectation(16);
  const std::vector<int32_t> output = OutputOf(expected);
  int ended_before_the_last = 0;
  for (const auto& [first, last] : std::vector<std::pair<int, int>>{{0, 0}, {0, 2}, {5, 6}, {4, 11}, {15, 15}}) {
    DecodeRequest request = expected.request;
    const std::string stop = StopAcross(output, first, last);
    request.add_stop_strings("never said");
    request.add_stop_strings(stop);
    const int end = EndOf(output, stop);
    ASSERT_GE(end, 0);
    ended_before_the_last += end < 15;
    SCOPED_TRACE(stop);
    ExpectEnds(expected, request, end, /*local=*/first % 2 == 0);
  }
  EXPECT_GE(ended_before_the_last, 4);
  // Both ways, where the first token is the last.
  DecodeRequest request = expected.request;
  request.add_stop_strings(StopAcross(output, 0, 0));
  ExpectEnds(expected, request, 0, /*local=*/false);
  EXPECT_EQ(worker_.Metric("baton_sequences_finished_total", "done"), 12);
}

TEST_P(KeptEndTest, AStopStringMayHaveBegunBeforeTheSequenceCameHere) {
  const Expectation whole = AsciiExpectation(16);
  const std::vector<int32_t> output = OutputOf(whole);
  const std::string stop = StopAcross(output, 5, 9);
  const int end = EndOf(output, stop);
  for (const size_t before : {size_t{6}, size_t{8}}) {
    if (static_cast<int>(before) > end) continue;
    // Another worker made the first tokens.
    DecodeRequest request = whole.request;
    request.mutable_tokens()->Add(output.begin(), output.begin() + static_cast<int64_t>(before));
    request.set_generated_tokens(static_cast<int32_t>(before));
    const Expectation rest = RunPlainLoop(GetParam(), request);
    ASSERT_EQ(OutputOf(rest), std::vector<int32_t>(output.begin() + static_cast<int64_t>(before), output.end()));
    request.add_stop_strings(stop);
    ExpectEnds(rest, request, end - static_cast<int>(before), /*local=*/before == 6);
  }
}

TEST_P(KeptEndTest, WithoutAStringThatMatchesTheLengthEndsIt) {
  const Expectation expected = AsciiExpectation(8);
  DecodeRequest request = expected.request;
  request.add_stop_strings("never said");
  ExpectEnds(expected, request, 7, /*local=*/true, worker::v1::LENGTH);
}

TEST_P(KeptEndTest, AStopTokenIsTextOnlyWhereItIsShown) {
  const Expectation expected = AsciiExpectation(12);
  const std::vector<int32_t> output = OutputOf(expected);
  // The first token that is a stop token completes the stop string.
  const size_t at = 6;
  const int end = static_cast<int>(std::find(output.begin(), output.end(), output[at]) - output.begin());
  if (end == 0) GTEST_SKIP() << "the plain loop has no first token that stops";
  DecodeRequest request = expected.request;
  request.mutable_stopping()->add_stop_token_ids(output[at]);
  request.add_stop_strings(StopAcross(output, end, end));
  const int string_end = EndOf(output, request.stop_strings(0));
  if (string_end < end) GTEST_SKIP() << "said before";
  ExpectEnds(expected, request, end, /*local=*/true, worker::v1::STOP_TOKEN);
  request.set_include_stop_tokens(true);
  ExpectEnds(expected, request, end, /*local=*/true, worker::v1::STOP_STRING);
}

TEST_P(KeptEndTest, WhatIsCutOffIsKeptWithAllTokensThatWereTold) {
  DecodeRequest request = MakeRequest(LoopModel(GetParam()), RandomPrompt(30, 3), 1900);
  request.set_compute_prompt(true);
  const SessionKey key = NewKey();
  *request.mutable_keep() = key;
  RunStream run(worker_.stub(), request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  std::vector<int32_t> kept(request.tokens().begin(), request.tokens().end());
  const auto first = run.Next();
  ASSERT_TRUE(first.has_value() && first->has_first_token());
  kept.push_back(first->first_token().id());
  const auto some = run.Next();
  ASSERT_TRUE(some.has_value() && some->has_progress());
  kept.insert(kept.end(), some->progress().tokens(0).ids().begin(), some->progress().tokens(0).ids().end());

  worker::v1::EndSamplesRequest end;
  end.set_boot_id(reservation->boot_id());
  end.set_reservation_id(reservation->reservation_id());
  end.set_generation(reservation->generation());
  end.add_samples(0);
  end.set_as_complete(true);
  grpc::ClientContext context;
  worker::v1::EndSamplesResponse response;
  ASSERT_TRUE(worker_.stub().EndSamples(&context, end, &response).ok());
  const RunStream::Result rest = run.End();
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.reason, worker::v1::CUT_OFF);
  kept.insert(kept.end(), rest.tokens.begin(), rest.tokens.end());
  EXPECT_LT(kept.size(), 1900u);
  EXPECT_EQ(worker_.Metric("baton_sequences_finished_total", "done"), 1);
  ExpectGoesOn(key, kept);
}

INSTANTIATE_TEST_SUITE_P(Models, KeptEndTest, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) { return std::string(info.param).substr(5); });

SequenceRequest RequestWith(std::vector<std::string> stop_strings) {
  SequenceRequest request;
  request.tokens = {2, 300};
  request.max_new_tokens = 4;
  request.stop_token_ids = {1, 301};
  request.stop_strings = std::move(stop_strings);
  return request;
}

TEST(SampleEndTest, WithoutAVocabularyNoTextIsLookedAt) {
  const std::string said = TheTokenizer().TokenBytes(400);
  const SequenceRequest request = RequestWith({said});
  SampleEnd blind(&request, nullptr);
  EXPECT_FALSE(blind.Push(400, 1).has_value());
  EXPECT_EQ(blind.Push(301, 2), worker::v1::STOP_TOKEN);
  EXPECT_EQ(blind.Push(400, 4), worker::v1::LENGTH);
  SampleEnd seeing(&request, &TheTokenizer());
  EXPECT_EQ(seeing.Push(400, 1), worker::v1::STOP_STRING);
}

TEST(SampleEndTest, AStringCountsMoreThanTheLength) {
  const SequenceRequest request = RequestWith({TheTokenizer().TokenBytes(400)});
  SampleEnd end(&request, &TheTokenizer());
  EXPECT_FALSE(end.Push(500, 3).has_value());
  EXPECT_EQ(end.Push(400, 4), worker::v1::STOP_STRING);
}

// A character of several tokens, and one string within another.
TEST(SampleEndTest, CharactersOfManyTokensAndStringsWithinStrings) {
  std::vector<int32_t> bytes;
  for (const int byte : {0xE2, 0x82, 0xAC}) bytes.push_back(TheTokenizer().PieceId(absl::StrFormat("<0x%02X>", byte)));
  SequenceRequest request = RequestWith({"\xE2\x82\xAC\xE2\x82\xAC", "\xE2\x82\xAC\xE2\x82\xAC!"});
  request.max_new_tokens = 100;
  SampleEnd end(&request, &TheTokenizer());
  int64_t generated = 0;
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(end.Push(bytes[static_cast<size_t>(i % 3)], ++generated).has_value()) << i;
  EXPECT_EQ(end.Push(bytes[2], ++generated), worker::v1::STOP_STRING);
  // As if it had come here within the second character.
  request.tokens.insert(request.tokens.end(), {bytes[0], bytes[1], bytes[2], bytes[0]});
  request.generated_tokens = 4;
  SampleEnd resumed(&request, &TheTokenizer());
  EXPECT_FALSE(resumed.Push(bytes[1], 5).has_value());
  EXPECT_EQ(resumed.Push(bytes[2], 6), worker::v1::STOP_STRING);
}

}  // namespace
}  // namespace baton
