#include "common/text/vocabulary.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/text/tokenizer.h"
#include "tests/common/text/gemma_like_model.h"

namespace baton {
namespace {

// All that a tokenizer says of its tokens, byte for byte: text is made with either.
void ExpectSayTheSame(const std::string& model) {
  const absl::StatusOr<std::unique_ptr<const Vocabulary>> vocabulary = Vocabulary::FromModel(model);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::FromModel(model).value();
  ASSERT_EQ(static_cast<int32_t>((*vocabulary)->size()), tokenizer->vocab_size());
  int specials = 0;
  for (int32_t id = -1; id <= tokenizer->vocab_size(); ++id) {
    for (const bool keep_special : {false, true}) {
      EXPECT_EQ((*vocabulary)->TokenBytes(id, keep_special), tokenizer->TokenBytes(id, keep_special)) << id;
    }
    EXPECT_EQ((*vocabulary)->IsSpecial(id), tokenizer->IsSpecial(id)) << id;
    specials += (*vocabulary)->IsSpecial(id);
  }
  EXPECT_GT(specials, 5);
}

TEST(Vocabulary, SaysWhatTheTokenizerSays) {
  ExpectSayTheSame(ReadFileOrDie(BATON_BUNDLED_MODELS "/tiny-gemma2/tokenizer.model"));
  ExpectSayTheSame(SerializeModel(GemmaLikeSpec()));
}

TEST(Vocabulary, PiecesAppearAsTheyDoInText) {
  const Vocabulary vocabulary({{"<unk>", 0, PieceType::kUnknown},
                               {"<eos>", 0, PieceType::kControl},
                               {"<start_of_turn>", 0, PieceType::kUserDefined},
                               {"<table>", 0, PieceType::kUserDefined},
                               {"<0xC3>", 0, PieceType::kByte},
                               {"\xE2\x96\x81good\xE2\x96\x81\xE2\x96\x81"
                                "day",
                                0, PieceType::kNormal}});
  EXPECT_EQ(vocabulary.TokenBytes(0), "");
  EXPECT_EQ(vocabulary.TokenBytes(1), "");
  EXPECT_EQ(vocabulary.TokenBytes(2), "");
  EXPECT_EQ(vocabulary.TokenBytes(2, /*keep_special=*/true), "<start_of_turn>");
  EXPECT_EQ(vocabulary.TokenBytes(3), "<table>");
  EXPECT_EQ(vocabulary.TokenBytes(4), "\xC3");
  EXPECT_EQ(vocabulary.TokenBytes(5), " good  day");
  EXPECT_EQ(vocabulary.TokenBytes(6), "");
  EXPECT_EQ(vocabulary.TokenBytes(-1), "");
  EXPECT_FALSE(vocabulary.IsSpecial(6));
}

TEST(Vocabulary, WhatIsNoModelIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Vocabulary::FromModel("").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Vocabulary::FromModel("no model").status()));
  const std::string model = ReadFileOrDie(BATON_BUNDLED_MODELS "/tiny-gemma2/tokenizer.model");
  EXPECT_TRUE(absl::IsInvalidArgument(Vocabulary::FromModel(model.substr(0, model.size() - 5)).status()));
}

}  // namespace
}  // namespace baton
