#include "prefill/prefill_prompt.h"

#include <gtest/gtest.h>

#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

class PrefillPromptTest : public ::testing::Test {
 protected:
  PrefillPromptTest() {
    LayerStateSpec layer;
    layer.kv_heads = 1;
    layer.head_dim = 32;
    layout_.layers = {layer};
    limits_.request.vocab_size = 100;
    limits_.request.max_tokens = 1000;
    limits_.layout = &layout_;
    limits_.state_bytes = int64_t{1} << 30;
    request_.set_fingerprint(limits_.request.fingerprint.ToBytes());
    for (int i = 0; i < 20; ++i) request_.add_tokens(i);
    request_.mutable_sampling()->set_top_p(1);
    request_.mutable_sampling()->set_typical_p(1);
    request_.mutable_sampling()->set_repetition_penalty(1);
    request_.mutable_stopping()->set_max_new_tokens(5);
    SetEndpoint("decode-0.example:7201");
  }

  void SetEndpoint(const std::string& endpoint) {
    request_.mutable_handoff()->set_endpoint(endpoint);
    request_.mutable_handoff()->set_boot_id("boot");
  }
  absl::StatusOr<PrefillPrompt> Check() const { return CheckPrefillRequest(request_, limits_); }

  StateLayout layout_;
  PrefillLimits limits_;
  worker::v1::PrefillRequest request_;
};

TEST_F(PrefillPromptTest, AGenerationNeedsTheLastRowOnly) {
  const absl::StatusOr<PrefillPrompt> prompt = Check();
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->tokens(), 20);
  EXPECT_EQ(prompt->tokens_to_compute(), 20);
  EXPECT_EQ(prompt->first_logit_row(), 19);
  ASSERT_TRUE(prompt->handoff.has_value());
  EXPECT_EQ(prompt->handoff->endpoint(), "decode-0.example:7201");
}

TEST_F(PrefillPromptTest, AScoredTokenNeedsTheRowBeforeIt) {
  request_.set_score_from(7);
  absl::StatusOr<PrefillPrompt> prompt = Check();
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->first_logit_row(), 6);
  EXPECT_EQ(prompt->tokens_to_compute(), 20);

  request_.set_score_only(true);
  request_.clear_handoff();
  request_.clear_sampling();
  request_.clear_stopping();
  prompt = Check();
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->first_logit_row(), 6);
  EXPECT_EQ(prompt->tokens_to_compute(), 19) << "nothing is scored by the last token's logits";
  EXPECT_FALSE(prompt->handoff.has_value());
}

TEST_F(PrefillPromptTest, WhereNothingFollowsTheFirstTokenNothingIsHandedOff) {
  request_.mutable_stopping()->set_max_new_tokens(1);
  absl::StatusOr<PrefillPrompt> prompt = Check();
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_FALSE(prompt->handoff.has_value());
  request_.clear_handoff();
  EXPECT_TRUE(Check().ok());

  // The same when the others were generated before.
  request_.mutable_stopping()->set_max_new_tokens(5);
  request_.set_generated_tokens(4);
  EXPECT_TRUE(Check().ok());
  request_.set_generated_tokens(3);
  EXPECT_TRUE(absl::IsInvalidArgument(Check().status()));
}

TEST_F(PrefillPromptTest, EndpointsAreHostAndPort) {
  for (const char* good : {"127.0.0.1:1", "[::1]:7201", "decode:65535", "a.b.c:80"}) {
    SetEndpoint(good);
    EXPECT_TRUE(Check().ok()) << good;
  }
  for (const char* bad : {"", ":80", "host", "host:", "host:0", "host:65536", "host:-1", "host:x", "unix:/tmp/s",
                          "unix:///tmp/s:1", "dns:///host:80", "::1:80", "ho st:80", "host\n:80"}) {
    SetEndpoint(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(Check().status())) << bad;
  }
  SetEndpoint(std::string(1000, 'a').append(":80"));
  EXPECT_TRUE(absl::IsInvalidArgument(Check().status()));
}

TEST_F(PrefillPromptTest, AStateThatNeverFitsIsRefused) {
  limits_.state_bytes = layout_.BytesFor(20);
  EXPECT_TRUE(Check().ok());
  limits_.state_bytes = layout_.BytesFor(20) - 1;
  const absl::Status status = Check().status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(ErrorReason(status), "PREFILL_MEMORY_FULL");
}

}  // namespace
}  // namespace baton
