#include "common/rpc/worker_request.h"

#include <cmath>
#include <functional>
#include <limits>

#include "common/rpc/status_mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using worker::v1::DecodeRequest;
using worker::v1::PrefillRequest;

constexpr int32_t kVocab = 100;

RequestLimits Limits() {
  RequestLimits limits;
  limits.fingerprint.bytes.fill(7);
  limits.vocab_size = kVocab;
  limits.max_tokens = 50;
  return limits;
}

template <typename Request>
Request Valid() {
  Request request;
  request.set_request_id("req-1");
  request.set_fingerprint(Limits().fingerprint.ToBytes());
  for (int32_t id : {2, 10, 20, 30, 20}) request.add_tokens(id);
  request.mutable_sampling()->set_temperature(0.5f);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_typical_p(1);
  request.mutable_sampling()->set_repetition_penalty(1);
  request.mutable_stopping()->set_max_new_tokens(10);
  return request;
}

TEST(WorkerRequestTest, ConvertsEveryField) {
  DecodeRequest proto = Valid<DecodeRequest>();
  proto.set_generated_tokens(2);
  worker::v1::Sampling& sampling = *proto.mutable_sampling();
  sampling.set_top_k(40);
  sampling.set_top_p(0.9f);
  sampling.set_min_p(0.1f);
  sampling.set_typical_p(0.8f);
  sampling.set_repetition_penalty(1.2f);
  sampling.set_presence_penalty(-1);
  sampling.set_frequency_penalty(1.5f);
  (*sampling.mutable_logit_bias())[30] = -5;
  (*sampling.mutable_logit_bias())[3] = 5;
  sampling.add_allowed_token_ids(4);
  sampling.set_seed(~uint64_t{0});
  for (int32_t id : {9, 1, 9}) proto.mutable_stopping()->add_stop_token_ids(id);
  proto.mutable_stopping()->set_min_new_tokens(4);
  proto.set_logprobs(true);
  proto.set_top_logprobs(20);
  proto.set_priority(-100);

  const absl::StatusOr<SequenceRequest> request = CheckRequest(proto, Limits());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->request_id, "req-1");
  EXPECT_THAT(request->tokens, ElementsAre(2, 10, 20, 30, 20));
  EXPECT_EQ(request->generated_tokens, 2);
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 40);
  EXPECT_EQ(request->sampling.top_p, 0.9f);
  EXPECT_EQ(request->sampling.min_p, 0.1f);
  EXPECT_EQ(request->sampling.typical_p, 0.8f);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.2f);
  EXPECT_EQ(request->sampling.presence_penalty, -1);
  EXPECT_EQ(request->sampling.frequency_penalty, 1.5f);
  EXPECT_THAT(request->sampling.logit_bias, ElementsAre(Pair(3, 5), Pair(30, -5)));
  EXPECT_THAT(request->sampling.allowed_token_ids, ElementsAre(4));
  EXPECT_EQ(request->sampling.seed, ~uint64_t{0});
  EXPECT_THAT(request->stop_token_ids, ElementsAre(1, 9));
  EXPECT_TRUE(request->logprobs);
  EXPECT_EQ(request->top_logprobs, 20);
  EXPECT_EQ(request->priority, -100);
  // 3 prompt tokens and 10 new ones, 2 of which are there.
  EXPECT_EQ(request->total_tokens(), 13);
  EXPECT_TRUE(request->IsStop(9));
  EXPECT_FALSE(request->IsStop(2));
  EXPECT_THAT(request->MaskedIds(3), ElementsAre(1, 9));
  EXPECT_THAT(request->MaskedIds(4), IsEmpty());
}

// With a frequency penalty alone, what was generated counts and the prompt does not.
TEST(WorkerRequestTest, HistoryTellsPromptFromOutput) {
  DecodeRequest proto = Valid<DecodeRequest>();
  proto.set_generated_tokens(2);  // 30, 20
  proto.mutable_sampling()->set_temperature(0);
  proto.mutable_sampling()->set_frequency_penalty(1);
  const SequenceRequest request = CheckRequest(proto, Limits()).value();
  std::vector<float> logits(kVocab, 0.0f);
  logits[10] = 1.0f;
  logits[20] = 1.9f;
  logits[30] = 1.8f;
  Sampler sampler;
  EXPECT_EQ(sampler.Sample(logits, request.sampling, request.MakeHistory(), {}, 5), 10);
}

TEST(WorkerRequestTest, EveryBadFieldIsNamed) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const struct {
    const char* field;
    std::function<void(DecodeRequest&)> spoil;
  } cases[] = {
      {"fingerprint", [](auto& r) { r.set_fingerprint("short"); }},
      {"request_id", [](auto& r) { r.set_request_id(std::string(129, 'a')); }},
      {"request_id", [](auto& r) { r.set_request_id("a\nb"); }},
      {"tokens", [](auto& r) { r.clear_tokens(); }},
      {"tokens[1]", [](auto& r) { r.set_tokens(1, kVocab); }},
      {"tokens[4]", [](auto& r) { r.set_tokens(4, -1); }},
      {"generated_tokens", [](auto& r) { r.set_generated_tokens(-1); }},
      {"generated_tokens", [](auto& r) { r.set_generated_tokens(5); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(kNan); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(-1); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(INFINITY); }},
      {"sampling.top_p", [](auto& r) { r.clear_sampling(); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(1.01f); }},
      {"sampling.min_p", [](auto& r) { r.mutable_sampling()->set_min_p(kNan); }},
      {"sampling.typical_p", [](auto& r) { r.mutable_sampling()->set_typical_p(0); }},
      {"sampling.repetition_penalty", [](auto& r) { r.mutable_sampling()->set_repetition_penalty(0); }},
      {"sampling.presence_penalty", [](auto& r) { r.mutable_sampling()->set_presence_penalty(3); }},
      {"sampling.frequency_penalty", [](auto& r) { r.mutable_sampling()->set_frequency_penalty(-3); }},
      {"sampling.logit_bias", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[kVocab] = 1; }},
      {"sampling.logit_bias", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[1] = kNan; }},
      {"sampling.logit_bias",
       [](auto& r) {
         for (int i = 0; i < 2000; ++i) (*r.mutable_sampling()->mutable_logit_bias())[i] = 1;
       }},
      {"sampling.allowed_token_ids", [](auto& r) { r.mutable_sampling()->add_allowed_token_ids(-1); }},
      {"sampling.allowed_token_ids",
       [](auto& r) {
         for (int i = 0; i < kVocab + 1; ++i) r.mutable_sampling()->add_allowed_token_ids(1);
       }},
      {"stopping.max_new_tokens", [](auto& r) { r.mutable_stopping()->set_max_new_tokens(0); }},
      {"stopping.max_new_tokens", [](auto& r) { r.mutable_stopping()->set_max_new_tokens(-5); }},
      {"stopping.max_new_tokens",
       [](auto& r) {
         r.set_generated_tokens(4);
         r.mutable_stopping()->set_max_new_tokens(4);
       }},
      {"stopping.min_new_tokens", [](auto& r) { r.mutable_stopping()->set_min_new_tokens(11); }},
      {"stopping.min_new_tokens", [](auto& r) { r.mutable_stopping()->set_min_new_tokens(-1); }},
      {"stopping.stop_token_ids[0]", [](auto& r) { r.mutable_stopping()->add_stop_token_ids(kVocab); }},
      {"stopping.stop_token_ids",
       [](auto& r) {
         for (int i = 0; i < 2000; ++i) r.mutable_stopping()->add_stop_token_ids(1);
       }},
      {"top_logprobs", [](auto& r) { r.set_top_logprobs(-1); }},
      {"top_logprobs", [](auto& r) { r.set_top_logprobs(21); }},
      {"priority", [](auto& r) { r.set_priority(101); }},
      {"priority", [](auto& r) { r.set_priority(std::numeric_limits<int32_t>::min()); }},
  };
  ASSERT_TRUE(CheckRequest(Valid<DecodeRequest>(), Limits()).ok());
  for (const auto& c : cases) {
    DecodeRequest request = Valid<DecodeRequest>();
    c.spoil(request);
    const absl::Status status = CheckRequest(request, Limits()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.field));
  }
}

TEST(WorkerRequestTest, LengthsAreLimitedTogether) {
  DecodeRequest request = Valid<DecodeRequest>();
  request.mutable_stopping()->set_max_new_tokens(45);
  EXPECT_TRUE(CheckRequest(request, Limits()).ok());
  request.mutable_stopping()->set_max_new_tokens(46);
  EXPECT_EQ(ErrorReason(CheckRequest(request, Limits()).status()), "PROMPT_TOO_LONG");
  request.mutable_stopping()->set_max_new_tokens(std::numeric_limits<int32_t>::max());
  EXPECT_EQ(ErrorReason(CheckRequest(request, Limits()).status()), "PROMPT_TOO_LONG");
  // Generated ones are among both: 46 new, of which 1 is there.
  request.mutable_stopping()->set_max_new_tokens(46);
  request.set_generated_tokens(1);
  EXPECT_TRUE(CheckRequest(request, Limits()).ok());
}

TEST(WorkerRequestTest, AnotherFingerprintIsAFailedPrecondition) {
  DecodeRequest request = Valid<DecodeRequest>();
  request.set_fingerprint(std::string(32, 'x'));
  const absl::Status status = CheckRequest(request, Limits()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "FINGERPRINT_MISMATCH");
}

TEST(WorkerRequestTest, PrefillChecksItsOwnFields) {
  const auto status_of = [](const std::function<void(PrefillRequest&)>& change) {
    PrefillRequest request = Valid<PrefillRequest>();
    request.mutable_handoff()->set_endpoint("127.0.0.1:1");
    request.mutable_handoff()->set_boot_id("boot");
    change(request);
    return CheckRequest(request, Limits()).status();
  };
  const auto expect_bad = [&](const char* field, const std::function<void(PrefillRequest&)>& change) {
    const absl::Status status = status_of(change);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  };
  EXPECT_TRUE(status_of([](auto& r) {}).ok());
  EXPECT_TRUE(status_of([](auto& r) { r.clear_handoff(); }).ok());
  EXPECT_TRUE(status_of([](auto& r) { r.set_score_from(1); }).ok());
  EXPECT_TRUE(status_of([](auto& r) { r.set_score_from(4); }).ok());
  expect_bad("score_from", [](auto& r) { r.set_score_from(0); });
  expect_bad("score_from", [](auto& r) { r.set_score_from(5); });
  expect_bad("handoff.endpoint", [](auto& r) { r.mutable_handoff()->clear_endpoint(); });
  expect_bad("handoff.boot_id", [](auto& r) { r.mutable_handoff()->clear_boot_id(); });
  expect_bad("handoff", [](auto& r) { r.set_score_only(true); });
  // Scoring alone samples nothing, so nothing of that has to be there.
  EXPECT_TRUE(status_of([](auto& r) {
                r.clear_handoff();
                r.clear_sampling();
                r.clear_stopping();
                r.set_score_only(true);
                r.set_score_from(1);
              }).ok());
  expect_bad("tokens", [](auto& r) {
    r.clear_handoff();
    r.set_score_only(true);
    while (r.tokens_size() <= 50) r.add_tokens(1);
  });
}

TEST(WorkerRequestTest, StopStringsAreForWhatIsKept) {
  const auto check = [](const std::vector<std::string>& strings, bool keep = true) {
    DecodeRequest request = Valid<DecodeRequest>();
    if (keep) {
      request.mutable_keep()->set_id(std::string(kSessionIdBytes, 'k'));
      request.mutable_keep()->set_identity(std::string(kIdentityBytes, 'i'));
    }
    request.mutable_stop_strings()->Add(strings.begin(), strings.end());
    request.set_include_stop_tokens(true);
    return CheckRequest(request, Limits());
  };
  const absl::StatusOr<SequenceRequest> request = check({"\n\n", std::string(kMaxStopStringBytes, 's')});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->stop_strings, ElementsAre("\n\n", std::string(kMaxStopStringBytes, 's')));
  EXPECT_TRUE(request->include_stop_tokens);
  EXPECT_TRUE(check(std::vector<std::string>(kMaxStopStrings, "stop")).ok());
  for (const absl::Status& status : {check({"stop"}, /*keep=*/false).status(), check({"stop", ""}).status(),
                                     check({std::string(kMaxStopStringBytes + 1, 's')}).status(),
                                     check(std::vector<std::string>(kMaxStopStrings + 1, "stop")).status()}) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("stop_strings"));
  }
}

TEST(WorkerRequestTest, FirstTokenRecordsKeepTheirLogprobs) {
  TokenLogprob logprob;
  logprob.logprob = -0.5f;
  logprob.is_greedy = true;
  logprob.top = {{7, -0.5f}, {8, -1.5f}};
  const FirstTokenRecord record = MakeFirstTokenRecord(7, logprob);
  EXPECT_EQ(record.id, 7);
  EXPECT_TRUE(record.has_logprobs);
  EXPECT_TRUE(record.is_greedy);
  EXPECT_THAT(record.top_ids, ElementsAre(7, 8));
  EXPECT_THAT(record.top_logprobs, ElementsAre(-0.5f, -1.5f));
  worker::v1::TokenLogprobs proto;
  ToProto(logprob, &proto);
  EXPECT_EQ(proto.logprob(), -0.5f);
  EXPECT_TRUE(proto.is_greedy());
  EXPECT_THAT(proto.top_ids(), ElementsAre(7, 8));
  EXPECT_FALSE(MakeFirstTokenRecord(3).has_logprobs);
}

}  // namespace
}  // namespace baton
