#include "common/observe/log.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;

class LogTest : public testing::Test {
 protected:
  ~LogTest() override { ConfigureLog({}); }
};

TEST_F(LogTest, WritesLogfmt) {
  ConfigureLog({.role = "decode"});
  testing::internal::CaptureStderr();
  Log(Severity::kInfo, "request_done").With("request_id", "req-1").With("tokens", 3).With("text", "a \"b\"\nc");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              MatchesRegex("[0-9-]+T[0-9:.]+Z INFO request_done role=decode request_id=req-1 tokens=3 "
                           "text=\"a \\\\\"b\\\\\"\\\\nc\"\n"));
}

TEST_F(LogTest, WritesOneJsonObjectALine) {
  ConfigureLog({.json = true});
  testing::internal::CaptureStderr();
  Log(Severity::kError, "lost").With("why", "a \"quote\"\n").With("share", 0.5).With("ok", false);
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_THAT(line, HasSubstr("\"event\":\"lost\",\"why\":\"a \\\"quote\\\"\\u000a\",\"share\":0.5,\"ok\":false}\n"));
}

TEST_F(LogTest, KeepsQuietBelowTheMinimum) {
  ConfigureLog({.minimum = Severity::kWarning});
  testing::internal::CaptureStderr();
  Log(Severity::kInfo, "chatter").With("key", "value");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), IsEmpty());
}

TEST_F(LogTest, KnowsItsLevels) {
  Severity severity;
  EXPECT_TRUE(ParseSeverity("warning", &severity));
  EXPECT_EQ(severity, Severity::kWarning);
  EXPECT_FALSE(ParseSeverity("loud", &severity));
}

}  // namespace
}  // namespace baton
