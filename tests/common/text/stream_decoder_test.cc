#include "common/text/stream_decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "common/text/tokenizer.h"
#include "common/text/utf8.h"
#include "tests/common/text/gemma_like_model.h"

namespace baton {
namespace {

// Id i gives pieces[i]; the last piece is a control token.
class FakeTokenizer final : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view, const EncodeOptions&) const override {
    return absl::UnimplementedError("not needed");
  }
  std::string TokenBytes(int32_t id, bool keep_special) const override {
    return IsSpecial(id) && !keep_special ? "" : pieces_.at(id);
  }
  std::string Decode(absl::Span<const int32_t> ids, bool keep_special) const override {
    std::string bytes;
    for (const int32_t id : ids) bytes += TokenBytes(id, keep_special);
    std::string text;
    MoveUtf8(bytes, text, /*flush=*/true);
    return text;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return -1; }
  int32_t PieceId(absl::string_view) const override { return -1; }
  std::string Piece(int32_t id) const override { return pieces_.at(id); }
  bool IsSpecial(int32_t id) const override { return id == vocab_size() - 1; }

 private:
  std::vector<std::string> pieces_;
};

struct Streamed {
  std::string text;
  int matched_stop = -1;
};

// Pushes all ids, then flushes; checks every delta on the way.
Streamed Stream(const Tokenizer& tokenizer, const StreamDecoderOptions& options, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(&tokenizer, options);
  Streamed streamed;
  for (const int32_t id : ids) {
    const StreamDecoder::Step step = decoder.Push(id);
    EXPECT_TRUE(IsValidUtf8(step.text));
    if (streamed.matched_stop >= 0) {
      EXPECT_EQ(step.text, "") << "text after a match";
      EXPECT_EQ(step.matched_stop, -1);
    } else {
      streamed.matched_stop = step.matched_stop;
    }
    streamed.text += step.text;
  }
  const std::string rest = decoder.Flush();
  EXPECT_TRUE(IsValidUtf8(rest));
  if (streamed.matched_stop >= 0) {
    EXPECT_EQ(rest, "");
  }
  EXPECT_EQ(decoder.Flush(), "");
  EXPECT_EQ(decoder.Push(0).text, "");
  streamed.text += rest;
  return streamed;
}

// The whole text cut at the stop string that ends earliest, of those the longest.
Streamed Reference(std::string text, const StreamDecoderOptions& options) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int found = -1;
    for (size_t i = 0; i < options.stop.size(); ++i) {
      const std::string& stop = options.stop[i];
      if (stop.empty() || stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      if (found < 0 || stop.size() > options.stop[found].size()) found = static_cast<int>(i);
    }
    if (found < 0) continue;
    return {text.substr(0, options.include_stop ? end : end - options.stop[found].size()), found};
  }
  return {text, -1};
}

TEST(StreamDecoder, EqualsTheWholeDecodeCutAtTheStop) {
  const FakeTokenizer tokenizer({"a",
                                 "b",
                                 "c",
                                 "ab",
                                 "ba",
                                 "abc",
                                 "\n",
                                 "\n\n",
                                 " a",
                                 "\xE2",
                                 "\x82",
                                 "\xAC",
                                 "\xF0",
                                 "\x9F",
                                 "\x98",
                                 "\x80",
                                 "\u00E9",
                                 "a\xE2",
                                 "\xAC"
                                 "c",
                                 "\xFF",
                                 "<eos>"});
  const std::vector<std::string> stop_pool = {
      "a", "ab",  "aba",    "abab",     "bab",        "\n",      "\n\n",   "\n\n\n",        "bca",   "cc",          "c",
      "",  "aab", "\u20AC", "a\u20ACc", "\U0001F600", "\u00E9a", "\uFFFD", "b\uFFFD\uFFFD", "<eos>", "aaaaaaaaaaab"};
  std::mt19937 random(17);
  int matches = 0;
  for (int round = 0; round < 30000; ++round) {
    StreamDecoderOptions options;
    for (size_t count = random() % 5; count > 0; --count) {
      options.stop.push_back(stop_pool[random() % stop_pool.size()]);
    }
    options.include_stop = random() % 2 == 0;
    options.keep_special = random() % 2 == 0;
    // Small alphabets make overlaps likely.
    const int alphabet = random() % 2 == 0 ? 5 : tokenizer.vocab_size();
    std::vector<int32_t> ids;
    for (size_t count = random() % 25; count > 0; --count) ids.push_back(random() % alphabet);
    const Streamed streamed = Stream(tokenizer, options, ids);
    const Streamed reference = Reference(tokenizer.Decode(ids, options.keep_special), options);
    ASSERT_EQ(streamed.text, reference.text) << "round " << round;
    if (streamed.matched_stop >= 0) {
      ASSERT_EQ(options.stop[streamed.matched_stop], options.stop[reference.matched_stop]);
      ++matches;
    }
  }
  EXPECT_GT(matches, 5000);
}

TEST(StreamDecoder, HoldsNoMoreThanNeeded) {
  const FakeTokenizer tokenizer({"x", "ab", "c", "d", "<eos>"});
  StreamDecoder decoder(&tokenizer, {.stop = {"abcd"}});
  EXPECT_EQ(decoder.Push(0).text, "x");
  EXPECT_EQ(decoder.Push(1).text, "");
  EXPECT_EQ(decoder.Push(1).text, "ab");
  EXPECT_EQ(decoder.Push(2).text, "");
  EXPECT_EQ(decoder.Push(0).text, "abcx");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(StreamDecoder, SplitsNoCharacter) {
  const FakeTokenizer tokenizer({"\xF0\x9F", "\x98", "\x80!", "<eos>"});
  StreamDecoder decoder(&tokenizer, {});
  EXPECT_EQ(decoder.Push(0).text, "");
  EXPECT_EQ(decoder.Push(1).text, "");
  EXPECT_EQ(decoder.Push(2).text, "\U0001F600!");
  EXPECT_EQ(decoder.Push(0).text, "");
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
}

TEST(StreamDecoder, PrefersTheStopThatEndsFirstThenTheLongest) {
  const FakeTokenizer tokenizer({"xabcd", "<eos>"});
  StreamDecoder decoder(&tokenizer, {.stop = {"abcd", "c", "bc"}});
  const StreamDecoder::Step step = decoder.Push(0);
  EXPECT_EQ(step.matched_stop, 2);
  EXPECT_EQ(step.text, "xa");
}

TEST(StreamDecoder, ControlTokensAreSilentUnlessKept) {
  const FakeTokenizer tokenizer({"a", "<eos>"});
  EXPECT_EQ(Stream(tokenizer, {}, {0, 1, 0}).text, "aa");
  EXPECT_EQ(Stream(tokenizer, {.keep_special = true}, {0, 1, 0}).text, "a<eos>a");
}

TEST(StreamDecoder, EqualsDecodeOnARealVocabulary) {
  const auto tokenizer = Tokenizer::FromModel(ReadFileOrDie(BATON_BUNDLED_MODELS "/tiny-gemma2/tokenizer.model"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::mt19937 random(4);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 60; ++i) ids.push_back(random() % (round % 2 == 0 ? 2048 : 300));
    EXPECT_EQ(Stream(**tokenizer, {.stop = {" the", "\n\n"}}, ids).text,
              Reference((*tokenizer)->Decode(ids), {.stop = {" the", "\n\n"}}).text);
  }
}

}  // namespace
}  // namespace baton
