#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/rpc/status_mapping.h"
#include "tests/cli/cli_runner.h"
#include "tests/cli/fake_gateway.h"

namespace baton::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> Turns(const v1::GenerateRequest& request) {
  std::vector<std::string> turns;
  for (const v1::ChatMessage& message : request.chat().messages()) {
    turns.push_back(message.role() + ": " + message.content());
  }
  return turns;
}

class ChatTest : public testing::Test {
 protected:
  CliResult Run(absl::string_view standard_input) {
    return RunBaton({"--gateway", gateway_.address(), "chat"}, standard_input);
  }
  FakeGateway gateway_;
};

TEST_F(ChatTest, EveryTurnBringsThoseBefore) {
  gateway_.deltas = {"Yes."};
  const CliResult result = Run("one\ntwo\\\nlines\n\n/reset\nthree");
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "Yes.\nYes.\nYes.\n");
  EXPECT_EQ(result.err, "");
  const auto requests = gateway_.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_THAT(Turns(requests[0]), ElementsAre("user: one"));
  EXPECT_THAT(Turns(requests[1]), ElementsAre("user: one", "model: Yes.", "user: two\nlines"));
  EXPECT_THAT(Turns(requests[2]), ElementsAre("user: three"));
}

TEST_F(ChatTest, KeptTurnsAreNotSentAgain) {
  gateway_.deltas = {"Yes."};
  gateway_.session = "handle";
  EXPECT_EQ(Run("one\ntwo\n/reset\nthree\n").code, 0);
  const auto requests = gateway_.requests();
  ASSERT_EQ(requests.size(), 3u);
  for (const v1::GenerateRequest& request : requests) EXPECT_TRUE(request.keep_state());
  EXPECT_EQ(requests[0].session(), "");
  EXPECT_EQ(requests[1].session(), "handle");
  EXPECT_THAT(Turns(requests[1]), ElementsAre("user: two"));
  EXPECT_EQ(requests[2].session(), "") << "another conversation";
}

TEST_F(ChatTest, AnExpiredSessionIsSentAgainWhole) {
  gateway_.deltas = {"Yes."};
  gateway_.session = "handle";
  gateway_.sessions_expire = true;
  const CliResult result = Run("one\ntwo\n");
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "Yes.\nYes.\n");
  EXPECT_EQ(result.err, "");
  const auto requests = gateway_.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[1].session(), "handle");
  EXPECT_EQ(requests[2].session(), "");
  EXPECT_THAT(Turns(requests[2]), ElementsAre("user: one", "model: Yes.", "user: two"));
}

TEST_F(ChatTest, FlagsHoldForEveryTurn) {
  RunBaton({"--gateway", gateway_.address(), "chat", "--temperature", "0", "--seed", "7"}, "a\nb\n");
  for (const v1::GenerateRequest& request : gateway_.requests()) {
    EXPECT_EQ(request.sampling().temperature(), 0);
    EXPECT_TRUE(request.sampling().has_temperature());
    EXPECT_EQ(request.sampling().seed(), 7u);
  }
}

TEST_F(ChatTest, Commands) {
  EXPECT_EQ(Run("/quit\nnever said\n").code, 0);
  EXPECT_THAT(gateway_.requests(), IsEmpty());
  EXPECT_THAT(Run("/what\n").err, HasSubstr("there is no command /what\n/reset"));
  Run("/model beta\nx\n");
  EXPECT_EQ(gateway_.last_request().model(), "beta");
}

TEST_F(ChatTest, IsNotForMachines) {
  const CliResult result = RunBaton({"--gateway", gateway_.address(), "chat", "--json"}, "one\n");
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("generate --messages --json"));
  EXPECT_THAT(gateway_.requests(), IsEmpty());
}

TEST_F(ChatTest, AScriptEndsAtTheFirstFailure) {
  gateway_.failure = absl::InternalError("something broke");
  const CliResult result = Run("one\ntwo\n");
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err, "baton: something broke\n");
  EXPECT_EQ(gateway_.requests().size(), 1u);
}

TEST_F(ChatTest, APersonGoesOnAfterAFailure) {
  BatonOnTerminal baton({"--gateway", gateway_.address(), "chat"});
  ASSERT_TRUE(baton.WaitFor("> "));
  gateway_.failure = WithReason(absl::InvalidArgumentError("the prompt has 9000 tokens"), "PROMPT_TOO_LONG");
  baton.Type("one\n");
  ASSERT_TRUE(baton.WaitFor("the prompt has 9000 tokens\r\n"));
  ASSERT_TRUE(baton.WaitFor("(/reset starts a new conversation)"));
  ASSERT_TRUE(baton.WaitFor("> "));
  gateway_.failure = absl::OkStatus();
  baton.Type("two\n");
  ASSERT_TRUE(baton.WaitFor("Paris.\r\n"));
  EXPECT_THAT(Turns(gateway_.last_request()), ElementsAre("user: two"));
  ASSERT_TRUE(baton.WaitFor("> "));
  baton.Type("\x04");
  EXPECT_EQ(baton.ExitCode(), 0);
}

TEST_F(ChatTest, CtrlCStopsTheAnswerAndNotTheProgram) {
  gateway_.hang = true;
  gateway_.deltas = {"Once upon"};
  BatonOnTerminal baton({"--gateway", gateway_.address(), "chat"});
  ASSERT_TRUE(baton.WaitFor("> "));
  baton.Type("tell me a story\n");
  ASSERT_TRUE(baton.WaitFor("Once upon"));
  baton.CtrlC();
  ASSERT_TRUE(baton.WaitFor("(stopped)"));
  EXPECT_TRUE(gateway_.cancelled().WaitForNotificationWithTimeout(absl::Minutes(1)));
  ASSERT_TRUE(baton.WaitFor("> "));
  gateway_.hang = false;
  baton.Type("go on\n");
  ASSERT_TRUE(baton.WaitFor("Once upon"));
  EXPECT_THAT(Turns(gateway_.last_request()), ElementsAre("user: tell me a story", "model: Once upon", "user: go on"));
  ASSERT_TRUE(baton.WaitFor("> "));
  baton.CtrlC();
  ASSERT_TRUE(baton.WaitFor("(Ctrl-D or /quit leaves)"));
  baton.Type("/quit\n");
  EXPECT_EQ(baton.ExitCode(), 0);
}

}  // namespace
}  // namespace baton::cli
