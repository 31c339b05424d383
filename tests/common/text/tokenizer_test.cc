#include "common/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/common/text/gemma_like_model.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<Tokenizer> BundledTokenizer() {
  auto tokenizer = Tokenizer::FromModel(ReadFileOrDie(BATON_BUNDLED_MODELS "/tiny-gemma2/tokenizer.model"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::unique_ptr<Tokenizer> GemmaLikeTokenizer(int algorithm = 2) {
  ModelSpec spec = GemmaLikeSpec();
  spec.algorithm = algorithm;
  auto tokenizer = Tokenizer::FromModel(SerializeModel(spec));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, const std::string& text, bool parse_special = false) {
  auto ids = tokenizer.Encode(text, {.parse_special = parse_special});
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>());
}

std::vector<std::string> Pieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::vector<std::string> pieces;
  for (const int32_t id : ids) pieces.push_back(tokenizer.Piece(id));
  return pieces;
}

TEST(Tokenizer, ReproducesTheReferenceIds) {
  const auto tokenizer = BundledTokenizer();
  const auto data = nlohmann::json::parse(ReadFileOrDie(BATON_TEST_DATA "/trained/prompts.json"));
  int checked = 0;
  for (const auto& prompt : data["prompts"]) {
    std::vector<int32_t> ids = Encode(*tokenizer, prompt["text"], /*parse_special=*/true);
    ids.insert(ids.begin(), tokenizer->bos_id());
    EXPECT_EQ(ids, prompt["ids"].get<std::vector<int32_t>>()) << prompt["text"];
    ++checked;
  }
  EXPECT_EQ(checked, 43);
}

TEST(Tokenizer, KnowsTheBundledVocabulary) {
  const auto tokenizer = BundledTokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 2048);
  EXPECT_EQ(tokenizer->bos_id(), 2);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->PieceId("<start_of_turn>"), 4);
  EXPECT_EQ(tokenizer->PieceId("<end_of_turn>"), 5);
  EXPECT_EQ(tokenizer->Piece(5), "<end_of_turn>");
  EXPECT_EQ(tokenizer->PieceId("no such piece"), -1);
  EXPECT_EQ(tokenizer->PieceId("<unk>"), 3);
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) EXPECT_EQ(tokenizer->IsSpecial(id), id < 6) << id;
}

TEST(Tokenizer, KnowsTheSpecialSymbolsOfGemma) {
  const auto tokenizer = GemmaLikeTokenizer();
  EXPECT_EQ(tokenizer->bos_id(), 2);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  for (const char* piece : {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]", "<unused0>",
                            "<unused98>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<|fim_prefix|>"}) {
    EXPECT_TRUE(tokenizer->IsSpecial(tokenizer->PieceId(piece))) << piece;
  }
  for (const char* piece :
       {"\n", "\n\n", "\t", "\u2581\u2581", "<table>", "</table>", "<h1>", "</s>", "<0x0A>", "the"}) {
    ASSERT_GE(tokenizer->PieceId(piece), 0) << piece;
    EXPECT_FALSE(tokenizer->IsSpecial(tokenizer->PieceId(piece))) << piece;
  }
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_FALSE(tokenizer->IsSpecial(1 << 20));
}

TEST(Tokenizer, OrdinarySymbolsAreFoundInText) {
  for (const int algorithm : {1, 2}) {
    const auto tokenizer = GemmaLikeTokenizer(algorithm);
    EXPECT_THAT(Pieces(*tokenizer, Encode(*tokenizer, "<table>\n\n\t</s>   x")),
                ElementsAre("<table>", "\n\n", "\t", "</s>", "\u2581\u2581\u2581", "x"));
  }
}

TEST(Tokenizer, SpecialSymbolsInTextArePlainTextUnlessParsed) {
  for (const int algorithm : {1, 2}) {
    const auto tokenizer = GemmaLikeTokenizer(algorithm);
    for (const std::string symbol : {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]", "<unused0>",
                                     "<start_of_turn>", "<end_of_turn>", "<|fim_prefix|>"}) {
      const std::string text = "the" + symbol + "<" + symbol + ">";
      const std::vector<int32_t> plain = Encode(*tokenizer, text);
      for (const int32_t id : plain) EXPECT_FALSE(tokenizer->IsSpecial(id)) << symbol;
      EXPECT_EQ(tokenizer->Decode(plain), text);
      const std::vector<int32_t> parsed = Encode(*tokenizer, text, /*parse_special=*/true);
      const int32_t id = tokenizer->PieceId(symbol);
      EXPECT_EQ(std::count(parsed.begin(), parsed.end(), id), 2) << symbol;
      EXPECT_EQ(tokenizer->Decode(parsed), "the<>");
      EXPECT_EQ(tokenizer->Decode(parsed, /*keep_special=*/true), text);
    }
  }
}

TEST(Tokenizer, ParsesTheLongestSpecialSymbol) {
  ModelSpec spec = GemmaLikeSpec();
  spec.pieces.push_back({"<unused0>>", 0, kUserDefined});
  const auto tokenizer = Tokenizer::FromModel(SerializeModel(spec));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Pieces(**tokenizer, Encode(**tokenizer, "<unused0>><unused0>", true)),
              ElementsAre("<unused0>>", "<unused0>"));
}

TEST(Tokenizer, ByteFallback) {
  const auto tokenizer = GemmaLikeTokenizer();
  EXPECT_THAT(Pieces(*tokenizer, Encode(*tokenizer, "\u00E9")), ElementsAre("<0xC3>", "<0xA9>"));
  EXPECT_EQ(tokenizer->TokenBytes(tokenizer->PieceId("<0xC3>")), "\xC3");
  EXPECT_EQ(tokenizer->Decode({tokenizer->PieceId("<0xC3>")}), "\uFFFD");
  EXPECT_THAT(Pieces(*tokenizer, Encode(*tokenizer, std::string("\0", 1))), ElementsAre("<0x00>"));
  // Text that spells a byte piece's name is text.
  EXPECT_EQ(Encode(*tokenizer, "<0x41>").size(), 6u);
}

// Random texts out of awkward parts.
std::string RandomText(std::mt19937& random) {
  static const std::vector<std::string> parts = {"a",
                                                 "the ",
                                                 " ",
                                                 "  ",
                                                 "     ",
                                                 "\n",
                                                 "\n\n\n\n",
                                                 "\t\t",
                                                 "\r\n",
                                                 "<start_of_turn>",
                                                 "<bos>",
                                                 "<",
                                                 ">",
                                                 "<unused",
                                                 "0>",
                                                 "[@BOS@]",
                                                 "</s>",
                                                 "<table>",
                                                 "\u00E9",
                                                 "\u4E2D\u6587",
                                                 "\U0001F600",
                                                 "e\u0301",
                                                 "\u2581",
                                                 "\u2581\u2581",
                                                 "\uFFFD",
                                                 "\uFEFF",
                                                 "\u200B",
                                                 "\u00A0",
                                                 std::string("\0", 1),
                                                 "\x01",
                                                 "\x7F",
                                                 "<0x0A>",
                                                 "12345",
                                                 "turn",
                                                 "user\n"};
  std::string text;
  for (size_t count = random() % 20; count > 0; --count) text += parts[random() % parts.size()];
  return text;
}

TEST(Tokenizer, AnyTextRoundTripsWithoutSpecialTokens) {
  std::mt19937 random(11);
  for (const auto& tokenizer : {BundledTokenizer(), GemmaLikeTokenizer(1), GemmaLikeTokenizer(2)}) {
    for (int round = 0; round < 1000; ++round) {
      const std::string text = RandomText(random);
      const std::vector<int32_t> ids = Encode(*tokenizer, text);
      ASSERT_EQ(tokenizer->Decode(ids), text);
      for (const int32_t id : ids) ASSERT_FALSE(tokenizer->IsSpecial(id)) << text;
      const std::vector<int32_t> parsed = Encode(*tokenizer, text, /*parse_special=*/true);
      ASSERT_EQ(tokenizer->Decode(parsed, /*keep_special=*/true), text);
    }
  }
}

TEST(Tokenizer, DecodeConcatenatesTokenBytes) {
  const auto tokenizer = BundledTokenizer();
  std::mt19937 random(5);
  for (int round = 0; round < 100; ++round) {
    std::vector<int32_t> ids;
    std::string bytes;
    for (int i = 0; i < 30; ++i) {
      ids.push_back(300 + random() % 1748);  // past the byte pieces
      bytes += tokenizer->TokenBytes(ids.back());
    }
    EXPECT_EQ(tokenizer->Decode(ids), bytes);
  }
}

TEST(Tokenizer, IdsOutOfRangeAreNothing) {
  const auto tokenizer = BundledTokenizer();
  for (const int32_t id : {-1, 2048, 1 << 30}) {
    EXPECT_EQ(tokenizer->TokenBytes(id, true), "");
    EXPECT_EQ(tokenizer->Piece(id), "");
    EXPECT_EQ(tokenizer->Decode({id}), "");
  }
}

TEST(Tokenizer, RefusesInvalidUtf8) {
  const auto tokenizer = BundledTokenizer();
  const absl::Status status = tokenizer->Encode("abc\xFF").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 3"));
  EXPECT_FALSE(tokenizer->Encode("<bos>\xE2\x82", {.parse_special = true}).ok());
}

struct BadModel {
  const char* message;
  std::function<void(ModelSpec&)> change;
};

TEST(TokenizerFromModel, RefusesOtherKindsAndSaysWhy) {
  const BadModel cases[] = {
      {"no byte fallback", [](ModelSpec& spec) { spec.byte_fallback = false; }},
      {"no byte piece <0x0A>",
       [](ModelSpec& spec) {
         std::erase_if(spec.pieces, [](const ModelPiece& piece) { return piece.piece == "<0x0A>"; });
       }},
      {"byte pieces instead of 256",
       [](ModelSpec& spec) {
         spec.pieces.push_back({"<0x100>", 0, kByte});
       }},
      {"neither BPE nor unigram", [](ModelSpec& spec) { spec.algorithm = 3; }},
      {"neither BPE nor unigram", [](ModelSpec& spec) { spec.algorithm = -1; }},
      {"dummy prefix", [](ModelSpec& spec) { spec.add_dummy_prefix = true; }},
      {"removes white space", [](ModelSpec& spec) { spec.remove_extra_whitespaces = true; }},
      {"escape white space", [](ModelSpec& spec) { spec.escape_whitespaces = false; }},
      {"suffix", [](ModelSpec& spec) { spec.whitespace_as_suffix = true; }},
      {"normalizes", [](ModelSpec& spec) { spec.charsmap = "\x01\x02"; }},
      {"piece 3 is empty", [](ModelSpec& spec) { spec.pieces[3].piece = ""; }},
      {"not UTF-8", [](ModelSpec& spec) { spec.pieces[3].piece = "\xFF"; }},
      {"NUL", [](ModelSpec& spec) { spec.pieces[3].piece = std::string("a\0b", 3); }},
      {"too long", [](ModelSpec& spec) { spec.pieces[3].piece = std::string(5000, 'a'); }},
      {"pieces 1 and 2 are the same", [](ModelSpec& spec) { spec.pieces[2].piece = "<eos>"; }},
      {"unknown pieces", [](ModelSpec& spec) { spec.pieces[3].type = kControl; }},
      {"unknown pieces", [](ModelSpec& spec) { spec.pieces[2].type = kUnknown; }},
      {"piece type", [](ModelSpec& spec) { spec.pieces[2].type = 9; }},
      {"not finite", [](ModelSpec& spec) { spec.pieces[300].score = NAN; }},
      {"no pieces", [](ModelSpec& spec) { spec.pieces.clear(); }},
  };
  for (const BadModel& bad : cases) {
    ModelSpec spec = GemmaLikeSpec();
    bad.change(spec);
    const absl::Status status = Tokenizer::FromModel(SerializeModel(spec)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
  }
}

TEST(TokenizerFromModel, SurvivesCorruption) {
  const std::string good = SerializeModel(GemmaLikeSpec());
  EXPECT_FALSE(Tokenizer::FromModel("").ok());
  EXPECT_FALSE(Tokenizer::FromModel("not a model at all").ok());
  EXPECT_FALSE(Tokenizer::FromModel(std::string(1000, '\xFF')).ok());
  for (size_t length = 0; length < good.size(); length += 13) {
    EXPECT_FALSE(Tokenizer::FromModel(good.substr(0, length)).ok()) << length;
  }
  // A flipped bit may be harmless; what loads must work.
  std::mt19937 random(2);
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bad = good;
    for (size_t flips = 1 + random() % 4; flips > 0; --flips) bad[random() % bad.size()] ^= 1 << random() % 8;
    const auto tokenizer = Tokenizer::FromModel(bad);
    if (!tokenizer.ok()) {
      ++refused;
      continue;
    }
    const auto ids = (*tokenizer)->Encode("the <start_of_turn> \u4E2D turn\n\n", {.parse_special = round % 2 == 0});
    if (ids.ok()) (*tokenizer)->Decode(*ids);
  }
  EXPECT_GT(refused, 100);
}

TEST(Tokenizer, LongRunsEncodeQuickly) {
  const auto tokenizer = BundledTokenizer();
  for (const absl::string_view part : {"a", " ", "\n", "<", "\u2581", "<start_of_turn>"}) {
    std::string text;
    while (text.size() < 100000) absl::StrAppend(&text, part);
    EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, text)), text);
  }
}

}  // namespace
}  // namespace baton
