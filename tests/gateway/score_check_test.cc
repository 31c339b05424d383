// Fields of requests to score, tokenize and detokenize: what is refused and under which name, what becomes of the rest.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/request_check_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;

v1::ScoreRequest ValidScore() {
  v1::ScoreRequest request;
  request.mutable_text()->set_text("The capital of France is");
  request.add_continuations()->set_text(" Paris");
  return request;
}

struct BadScore {
  const char* name;
  void (*spoil)(v1::ScoreRequest&);
  const char* field;
};

class BadScoreTest : public ::testing::TestWithParam<BadScore> {};

TEST_P(BadScoreTest, NamesTheField) {
  v1::ScoreRequest request = ValidScore();
  GetParam().spoil(request);
  const auto plan = CheckScore(request, "id", TestModel());
  EXPECT_TRUE(absl::IsInvalidArgument(plan.status())) << plan.status();
  EXPECT_THAT(FieldsOf(plan.status()), ElementsAre(GetParam().field)) << plan.status();
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadScoreTest,
    ::testing::Values(BadScore{"NoContext", [](auto& r) { r.clear_text(); }, "context"},
                      BadScore{"EmptyContext", [](auto& r) { r.mutable_tokens(); }, "tokens.ids"},
                      BadScore{"NoContinuations", [](auto& r) { r.clear_continuations(); }, "continuations"},
                      BadScore{"ManyContinuations",
                               [](auto& r) {
                                 for (int i = 0; i < 256; ++i) r.add_continuations()->set_text("x");
                               },
                               "continuations"},
                      BadScore{"UnsetContinuation", [](auto& r) { r.add_continuations(); }, "continuations[1]"},
                      BadScore{"EmptyContinuation", [](auto& r) { r.add_continuations()->set_text(""); },
                               "continuations[1]"},
                      BadScore{"ContinuationId", [](auto& r) { r.add_continuations()->mutable_tokens()->add_ids(-1); },
                               "continuations[1].tokens.ids[0]"},
                      BadScore{"ContinuationNotUtf8", [](auto& r) { r.mutable_continuations(0)->set_text("\xFF"); },
                               "continuations[0].text"},
                      BadScore{"TooLong",
                               [](auto& r) {
                                 for (int i = 0; i < 512; ++i) r.mutable_continuations(0)->mutable_tokens()->add_ids(7);
                               },
                               "continuations[0]"},
                      BadScore{"TopLogprobs", [](auto& r) { r.set_top_logprobs(21); }, "top_logprobs"},
                      BadScore{"Priority", [](auto& r) { r.set_priority(-101); }, "priority"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(CheckScoreTest, ContextAndContinuationsAreTokenizedApart) {
  const auto model = TestModel();
  v1::ScoreRequest request = ValidScore();
  request.add_continuations()->mutable_tokens()->add_ids(9);
  const auto plan = CheckScore(request, "id", model);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->context.front(), 2);
  EXPECT_EQ(model->tokenizer->Decode(plan->continuations[0]), " Paris");
  EXPECT_NE(plan->continuations[0].front(), 2);
  EXPECT_THAT(plan->continuations[1], ElementsAre(9));
  // The empty text still has BOS, after which everything can be scored.
  request.mutable_text()->set_text("");
  EXPECT_THAT(CheckScore(request, "id", model)->context, ElementsAre(2));
}

TEST(CheckAndTokenizeTest, PiecesJoinToTheText) {
  const auto model = TestModel();
  v1::TokenizeRequest request;
  request.mutable_text()->set_text("Hello, <start_of_turn> w\xC3\xB6rld \xF0\x9D\x84\x9E");
  const auto response = CheckAndTokenize(request, *model);
  ASSERT_TRUE(response.ok()) << response.status();
  ASSERT_EQ(response->ids_size(), response->pieces_size());
  std::string joined;
  for (int i = 1; i < response->pieces_size(); ++i) joined += response->pieces(i);
  EXPECT_EQ(joined, request.text().text());
  EXPECT_EQ(response->pieces(0), "<bos>");
  EXPECT_THAT(FieldsOf(CheckAndTokenize({}, *model).status()), ElementsAre("input"));
}

TEST(CheckAndDetokenizeTest, ShowsControlTokensOnlyWhenAsked) {
  const auto model = TestModel();
  v1::DetokenizeRequest request;
  request.add_ids(2);
  const std::vector<int32_t> ids = *model->tokenizer->Encode("Hi");
  request.mutable_ids()->Add(ids.begin(), ids.end());
  EXPECT_EQ(CheckAndDetokenize(request, *model)->text(), "Hi");
  request.set_keep_special(true);
  EXPECT_EQ(CheckAndDetokenize(request, *model)->text(), "<bos>Hi");
  request.add_ids(model->vocab_size);
  EXPECT_FALSE(CheckAndDetokenize(request, *model).ok());
  EXPECT_EQ(CheckAndDetokenize({}, *model)->text(), "");
}

}  // namespace
}  // namespace baton
