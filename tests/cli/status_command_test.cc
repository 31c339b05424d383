// The command `baton status` against a gateway: once, for machines, and live with keys.
#include <termios.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "gateway/cli/status_poller.h"
#include "tests/cli/cli_runner.h"
#include "tests/cli/fake_gateway.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class StatusCommandTest : public testing::Test {
 protected:
  StatusCommandTest() { gateway_.fleet_status = TwoWorkers(); }
  std::vector<std::string> Arguments(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"status", "--gateway", gateway_.address()});
    return arguments;
  }
  CliResult Run(const std::vector<std::string>& arguments) { return RunBaton(Arguments(arguments)); }

  static v1::GetStatusResponse TwoWorkers() {
    v1::GetStatusResponse status;
    status.set_gateway_version("0.1.0");
    status.set_uptime_seconds(125);
    status.set_running_requests(3);
    v1::WorkerStatus* decode = status.add_workers();
    decode->set_endpoint("10.0.0.2:7201");
    decode->set_role("decode");
    decode->set_model("alpha");
    decode->set_state("SERVING");
    decode->set_running(3);
    decode->set_state_bytes_used(int64_t{1} << 29);
    decode->set_state_bytes_total(int64_t{1} << 31);
    decode->set_tokens_per_second(210);
    decode->set_uptime_seconds(61);
    v1::WorkerStatus* prefill = status.add_workers();
    prefill->set_endpoint("10.0.0.1:7101");
    prefill->set_role("prefill");
    prefill->set_state("UNREACHABLE");
    prefill->set_model("alpha");
    prefill->set_problem("connection refused");
    return status;
  }

  FakeGateway gateway_;
};

TEST_F(StatusCommandTest, Once) {
  const CliResult result = Run({});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(
      result.out,
      "gateway " + gateway_.address() +
          "  v0.1.0  up 2m05s\n"
          "now         running 3  queued 0\n"
          "\n"
          "MODEL  ROLE     ENDPOINT       STATE        RUN  QUEUE  QTOKENS  TOK/S  STEPS/S  BATCH  MEMORY         "
          " CACHED  SESSIONS  CHECKPOINTS  HEARD     UP\n"
          "alpha  prefill  10.0.0.1:7101  UNREACHABLE    -      -        -      -        -      -  -              "
          "      -         -            -      -      -\n"
          "alpha  decode   10.0.0.2:7201  SERVING        3      0        0    210        0      0  25% of 2.0 GiB "
          "      -         0            0      -  1m01s\n"
          "\n"
          "10.0.0.1:7101: connection refused\n");
}

TEST_F(StatusCommandTest, SortsAndFilters) {
  const std::string by_tokens = Run({"--sort", "tokens"}).out;
  EXPECT_LT(by_tokens.find("10.0.0.2:7201"), by_tokens.find("10.0.0.1:7101"));
  const std::string reversed = Run({"--sort", "tokens", "--reverse"}).out;
  EXPECT_GT(reversed.find("10.0.0.2:7201"), reversed.find("10.0.0.1:7101"));
  EXPECT_THAT(Run({"--role", "decode"}).out, Not(HasSubstr("10.0.0.1:7101")));
}

TEST_F(StatusCommandTest, ForMachines) {
  gateway_.fleet_status.mutable_recent()->set_output_tokens(70);
  gateway_.fleet_status.mutable_recent()->mutable_inter_token()->set_p99_seconds(0.25);
  gateway_.fleet_status.mutable_workers(0)->set_silent_seconds(0.5);
  gateway_.fleet_status.add_models()->set_model("alpha");
  const auto json = nlohmann::json::parse(Run({"--json"}).out);
  EXPECT_EQ(json["workers"][0]["state_bytes_used"], 536870912);
  EXPECT_EQ(json["workers"][0]["silent_seconds"], 0.5);
  EXPECT_FALSE(json["workers"][1].contains("silent_seconds"));
  EXPECT_EQ(json["workers"][1]["problem"], "connection refused");
  EXPECT_EQ(json["running_requests"], 3);
  EXPECT_EQ(json["recent"]["output_tokens"], 70);
  EXPECT_EQ(json["recent"]["inter_token"]["p99_seconds"], 0.25);
  EXPECT_EQ(json["models"][0]["model"], "alpha");
}

TEST_F(StatusCommandTest, TheGatewayIsAskedForTheWindow) {
  EXPECT_EQ(Run({}).code, 0);
  EXPECT_EQ(gateway_.status_window(), 10);
  EXPECT_EQ(Run({"--window", "42.5"}).code, 0);
  EXPECT_EQ(gateway_.status_window(), 42.5);
}

TEST_F(StatusCommandTest, FlagsAreChecked) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{{"--sort", "size"},
                                                                                     {"--window", "0"},
                                                                                     {"--window", "61"},
                                                                                     {"--interval", "0"},
                                                                                     {"--interval", "nan"},
                                                                                     {"--role", "gateway"}}) {
    const CliResult result = Run(wrong);
    EXPECT_EQ(result.code, 2) << wrong[0] << " " << wrong[1];
    EXPECT_THAT(result.err, HasSubstr(wrong[0].substr(2)));
  }
  EXPECT_THAT(Run({"--sort", "size"}).err, HasSubstr("model, role, endpoint, state"));
}

TEST_F(StatusCommandTest, LiveUntilCtrlC) {
  BatonOnTerminal baton(Arguments({"--interval", "0.1"}), 60);
  ASSERT_TRUE(baton.WaitFor("\033[?1049h"));
  ASSERT_TRUE(baton.WaitFor("running "));
  // The second frame is drawn over the first.
  ASSERT_TRUE(baton.WaitFor("\033[H"));
  ASSERT_TRUE(baton.WaitFor("10.0.0.2:7201"));
  EXPECT_THAT(baton.screen(), Not(HasSubstr("1m01s"))) << "the last column does not fit";
  gateway_.Stop();
  ASSERT_TRUE(baton.WaitFor("unreachable since"));
  EXPECT_TRUE(baton.WaitFor("10.0.0.2:7201")) << "the last figures stay";
  baton.CtrlC();
  EXPECT_EQ(baton.ExitCode(), 0);
  EXPECT_THAT(baton.screen(), testing::EndsWith("\033[?25h\033[?1049l"));
}

TEST_F(StatusCommandTest, KeysAreObeyed) {
  BatonOnTerminal baton(Arguments({"--interval", "0.1"}), 120);
  ASSERT_TRUE(baton.WaitFor("every 0.1 s"));
  baton.Type("d");
  ASSERT_TRUE(baton.WaitFor("decode only"));
  baton.Type("s");
  ASSERT_TRUE(baton.WaitFor("ROLE\u25b2"));
  baton.Type("r");
  ASSERT_TRUE(baton.WaitFor("ROLE\u25bc"));
  baton.Type("?");
  ASSERT_TRUE(baton.WaitFor("this help"));
  baton.Type(" ");
  ASSERT_TRUE(baton.WaitFor("PAUSED"));
  baton.Type(" +");
  ASSERT_TRUE(baton.WaitFor("every 0.2 s"));
  baton.Type("q");
  EXPECT_EQ(baton.ExitCode(), 0);
  EXPECT_THAT(baton.screen(), testing::EndsWith("\033[?25h\033[?1049l"));
}

TEST_F(StatusCommandTest, KeysAreObeyedWhileTheGatewayHangs) {
  BatonOnTerminal baton(Arguments({"--interval", "0.1"}), 120);
  ASSERT_TRUE(baton.WaitFor("every 0.1 s"));
  gateway_.HoldStatus(true);
  baton.Type("p");
  ASSERT_TRUE(baton.WaitFor("prefill only"));
  ASSERT_TRUE(baton.WaitFor("without an answer since"));
  gateway_.HoldStatus(false);
  baton.Type("q");
  EXPECT_EQ(baton.ExitCode(), 0);
}

TEST_F(StatusCommandTest, OtherFailuresEndIt) {
  BatonOnTerminal baton(Arguments({"--interval", "0.1"}), 120);
  ASSERT_TRUE(baton.WaitFor("every 0.1 s"));
  gateway_.FailStatus(absl::PermissionDeniedError("not an operator any more"));
  ASSERT_TRUE(baton.WaitFor("\033[?1049l"));
  ASSERT_TRUE(baton.WaitFor("not an operator any more")) << "where it stays to be read";
  EXPECT_EQ(baton.ExitCode(), 1);
}

TEST_F(StatusCommandTest, AGatewayThatIsNotThereIsAnErrorAndNoScreen) {
  gateway_.Stop();
  BatonOnTerminal baton(Arguments({}), 120);
  EXPECT_EQ(baton.ExitCode(), 3);
  EXPECT_THAT(baton.screen(), Not(HasSubstr("\033[?1049h")));
}

TEST(StatusPollerTest, AsksOncePerIntervalAndAtOnceForAnotherWindow) {
  absl::Mutex mutex;
  std::vector<double> asked;
  const auto ask = [&](double window) -> StatusPoller::Answer {
    absl::MutexLock lock(&mutex);
    asked.push_back(window);
    v1::GetStatusResponse response;
    response.set_running_requests(static_cast<int64_t>(asked.size()));
    return response;
  };
  const auto await = [&](size_t count) {
    absl::MutexLock lock(&mutex);
    const auto enough = [&] { return asked.size() >= count; };
    return mutex.AwaitWithTimeout(absl::Condition(&enough), absl::Minutes(1));
  };
  StatusPoller poller(ask, {absl::Hours(1), 10, false});
  poller.Set({absl::Hours(1), 30, false});
  ASSERT_TRUE(await(1));
  poller.Set({absl::Hours(1), 30, true});
  poller.Set({absl::Hours(1), 30, false});
  ASSERT_TRUE(await(2));
  poller.Set({absl::Milliseconds(1), 30, false});
  ASSERT_TRUE(await(5));
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(asked[0], 30);
}

}  // namespace
}  // namespace baton::cli
