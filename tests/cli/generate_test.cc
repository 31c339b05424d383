#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_split.h"
#include "gateway/cli/cli.h"
#include "tests/cli/cli_runner.h"
#include "tests/cli/fake_gateway.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class GenerateTest : public testing::Test {
 protected:
  CliResult Run(std::vector<std::string> arguments, absl::string_view standard_input = "") {
    arguments.insert(arguments.begin(), {"--gateway", gateway_.address(), "generate"});
    return RunBaton(arguments, standard_input);
  }

  // What was sent, as text format.
  std::string Sent() const {
    std::string text;
    google::protobuf::TextFormat::Printer printer;
    printer.SetSingleLineMode(true);
    printer.PrintToString(gateway_.last_request(), &text);
    return text;
  }

  FakeGateway gateway_;
};

TEST_F(GenerateTest, WritesTheTextAndNothingElse) {
  const CliResult result = Run({"What is the capital of France?"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "The capital of France is Paris.\n");
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(Sent(), R"(chat { messages { role: "user" content: "What is the capital of France?" } } )"
                    R"(sampling { } stopping { } output { token_ids: false } )");
}

TEST_F(GenerateTest, ShowsSamplesAsBlocksInTheOrderTheyFinish) {
  const auto add = [this](const char* text) {
    v1::GenerateEvent event;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &event));
    gateway_.script.push_back(event);
  };
  add("started { seed: 7 seeds: 7 seeds: 8 }");
  add("delta { choice: 0 text: 'one ' }");
  add("delta { choice: 1 text: 'two' }");
  add("choice_finished { choice: 1 seed: 8 reason: FINISH_REASON_STOP usage { completion_tokens: 4 } "
      "cumulative_logprob: -2 }");
  add("delta { choice: 0 text: 'half' }");
  add("choice_finished { choice: 0 seed: 7 reason: FINISH_REASON_CANCELLED usage { completion_tokens: 1 } "
      "cumulative_logprob: -0.5 }");
  add("finished { reason: FINISH_REASON_CANCELLED }");
  const CliResult result = Run({"-n", "2", "--stop-after", "1", "x"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out,
            "--- choice 1, seed 8: 4 tokens, log probability -2 (-0.5 a token)\n"
            "two\n"
            "--- choice 0, seed 7: 1 token, log probability -0.5 (-0.5 a token); cut off: enough others had finished\n"
            "one half\n");
  EXPECT_THAT(Sent(), HasSubstr("n: 2 stop_after: 1"));
  const CliResult lone = Run({"--stop-after", "1", "x"});
  EXPECT_NE(lone.code, 0);
  EXPECT_THAT(lone.err, HasSubstr("--stop-after needs -n"));
}

TEST_F(GenerateTest, EndsTheLineOnlyWhenNeeded) {
  gateway_.deltas = {"a\n", "b\n"};
  EXPECT_EQ(Run({"x"}).out, "a\nb\n");
  gateway_.deltas = {};
  EXPECT_EQ(Run({"x"}).out, "");
}

TEST_F(GenerateTest, EveryFlagReachesItsField) {
  const CliResult result = Run({"x",
                                "--model",
                                "alpha",
                                "--temperature",
                                "0",
                                "--top-k",
                                "-1",
                                "--top-p",
                                "0.5",
                                "--min-p",
                                "0.25",
                                "--typical-p",
                                "0.75",
                                "--repetition-penalty",
                                "1.5",
                                "--presence-penalty",
                                "-2",
                                "--frequency-penalty",
                                "2",
                                "--logit-bias",
                                "7=-1.5",
                                "--allow-token",
                                "7",
                                "--allow-token",
                                "8",
                                "--seed",
                                "18446744073709551615",
                                "--max-new-tokens",
                                "9",
                                "--min-new-tokens",
                                "3",
                                "--stop",
                                "--",
                                "--stop",
                                "[a,b]",
                                "--stop-token",
                                "107",
                                "--ignore-eos",
                                "--include-stop",
                                "--time-limit",
                                "2.5",
                                "--logprobs",
                                "--top-logprobs",
                                "4",
                                "--prompt-logprobs",
                                "--priority",
                                "-5",
                                "--request-id",
                                "mine"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(Sent(),
            R"(model: "alpha" chat { messages { role: "user" content: "x" } } )"
            R"(sampling { temperature: 0 top_k: -1 top_p: 0.5 min_p: 0.25 typical_p: 0.75 repetition_penalty: 1.5 )"
            R"(presence_penalty: -2 frequency_penalty: 2 logit_bias { key: 7 value: -1.5 } allowed_token_ids: 7 )"
            R"(allowed_token_ids: 8 seed: 18446744073709551615 } )"
            R"(stopping { max_new_tokens: 9 min_new_tokens: 3 stop: "--" stop: "[a,b]" stop_token_ids: 107 )"
            R"(ignore_eos: true include_stop_in_output: true time_limit_seconds: 2.5 } )"
            R"(output { logprobs: true top_logprobs: 4 prompt_logprobs: true token_ids: false } )"
            R"(priority: -5 request_id: "mine" )");
}

TEST_F(GenerateTest, PromptsFromEverywhere) {
  EXPECT_EQ(Run({}, "from a pipe\n").code, 0);
  EXPECT_THAT(Sent(), HasSubstr("content: \"from a pipe\""));
  EXPECT_EQ(Run({"--file", "-"}, "from a pipe\n\n").code, 0);
  EXPECT_THAT(Sent(), HasSubstr("content: \"from a pipe\\n\""));
  const TemporaryFile file("from a file");
  EXPECT_EQ(Run({"--file", file.path()}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr("content: \"from a file\""));
  EXPECT_EQ(Run({"--tokens", "[2, 7]"}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr("tokens { ids: 2 ids: 7 }"));
  const TemporaryFile messages(R"([{"role":"user","content":"a"},{"role":"model","content":"b"}])");
  EXPECT_EQ(Run({"--messages", messages.path()}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr(R"(messages { role: "user" content: "a" } messages { role: "model" content: "b" })"));
}

TEST_F(GenerateTest, RawPrompts) {
  EXPECT_EQ(Run({"--raw", "x"}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr(R"(text { text: "x" })"));
  EXPECT_EQ(Run({"--raw", "--no-bos", "--parse-special", "x"}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr(R"(text { text: "x" add_bos: false parse_special: true })"));
}

TEST_F(GenerateTest, PromptsThatLookLikeSomethingElse) {
  EXPECT_EQ(Run({"chat"}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr("content: \"chat\""));
  EXPECT_EQ(Run({"[a,b]"}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr("content: \"[a,b]\""));
  EXPECT_EQ(Run({"--", "--help"}).code, 0);
  EXPECT_THAT(Sent(), HasSubstr("content: \"--help\""));
  EXPECT_EQ(Run({""}, "not this").code, 0);
  EXPECT_THAT(Sent(), HasSubstr(R"(messages { role: "user" } })"));
}

TEST_F(GenerateTest, OneObjectForMachines) {
  const CliResult result = Run({"x", "--json"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1);
  const auto answer = nlohmann::json::parse(result.out);
  EXPECT_EQ(answer["text"], "The capital of France is Paris.");
  EXPECT_EQ(answer["token_ids"], nlohmann::json::parse("[100,101,102]"));
  EXPECT_EQ(answer["seed"], "18446744073709551615");
  EXPECT_EQ(answer["finish_reason"], "stop");
  EXPECT_EQ(answer["usage"]["total_tokens"], 17);
}

TEST_F(GenerateTest, JsonLinesForMachinesThatStream) {
  const CliResult result = Run({"x", "--json", "--stream"});
  EXPECT_EQ(result.code, 0);
  std::vector<std::string> events;
  std::string text;
  for (const absl::string_view line : absl::StrSplit(result.out, '\n', absl::SkipEmpty())) {
    const auto event = nlohmann::json::parse(std::string(line));
    events.push_back(event["event"]);
    if (event["event"] == "delta") text += event["text"].get<std::string>();
  }
  EXPECT_EQ(events, (std::vector<std::string>{"started", "delta", "delta", "delta", "finished"}));
  EXPECT_EQ(text, "The capital of France is Paris.");
}

TEST_F(GenerateTest, LogprobsFollowTheText) {
  gateway_.deltas = {"a", "\n"};
  EXPECT_EQ(Run({"x", "--logprobs"}).out, "a\n\nanswer:\n  -0.2500  \"a\"\n  -0.2500  \"\\n\"\n");
}

TEST_F(GenerateTest, ScriptsLeaveTheChoiceOfModelToTheGateway) {
  gateway_.AddModel("beta", true);
  EXPECT_EQ(Run({"x"}).code, 0);
  EXPECT_EQ(gateway_.last_request().model(), "");
  setenv("BATON_MODEL", "beta", 1);
  EXPECT_EQ(Run({"x"}).code, 0);
  unsetenv("BATON_MODEL");
  EXPECT_EQ(gateway_.last_request().model(), "beta");
}

TEST_F(GenerateTest, PeopleGetTheFirstReadyModelAndAreTold) {
  gateway_.models.Clear();
  for (const char* name : {"delta", "beta", "gamma"}) gateway_.AddModel(name, true);
  gateway_.AddModel("alpha", false);
  BatonOnTerminal baton({"--gateway", gateway_.address(), "generate", "x"});
  EXPECT_EQ(baton.ExitCode(), 0);
  EXPECT_EQ(gateway_.last_request().model(), "beta");
  EXPECT_THAT(baton.screen(), HasSubstr("using beta; --model chooses another: delta, gamma"));
  EXPECT_THAT(baton.screen(), HasSubstr("The capital of France is Paris.\r\n"));
  EXPECT_THAT(baton.screen(), HasSubstr("14 prompt + 3 output tokens, first after 12 ms, 100 tokens/s; req-1"));
}

TEST_F(GenerateTest, OneModelNeedsNoWords) {
  BatonOnTerminal baton({"--gateway", gateway_.address(), "generate", "x"});
  EXPECT_EQ(baton.ExitCode(), 0);
  EXPECT_EQ(gateway_.last_request().model(), "alpha");
  EXPECT_THAT(baton.screen(), Not(HasSubstr("using")));
}

TEST_F(GenerateTest, NoColourWhenNotWanted) {
  BatonOnTerminal baton({"--gateway", gateway_.address(), "--no-color", "generate", "x"});
  EXPECT_EQ(baton.ExitCode(), 0);
  EXPECT_THAT(baton.screen(), Not(HasSubstr("\033[")));
}

TEST_F(GenerateTest, ATerminalSeesNoEscapeSequencesOfTheModel) {
  gateway_.deltas = {"\x1b]0;owned\x07"};
  BatonOnTerminal baton({"--gateway", gateway_.address(), "generate", "x"});
  EXPECT_EQ(baton.ExitCode(), 0);
  EXPECT_THAT(baton.screen(), HasSubstr("\xEF\xBF\xBD]0;owned\xEF\xBF\xBD"));
  EXPECT_EQ(Run({"x"}).out, "\x1b]0;owned\x07\n") << "a file gets what the model said";
}

TEST_F(GenerateTest, CtrlCCancelsTheCall) {
  gateway_.hang = true;
  BatonOnTerminal baton({"--gateway", gateway_.address(), "generate", "x"});
  ASSERT_TRUE(baton.WaitFor("Paris."));
  baton.CtrlC();
  EXPECT_EQ(baton.ExitCode(), 130);
  EXPECT_TRUE(gateway_.cancelled().WaitForNotificationWithTimeout(absl::Minutes(1)));
}

TEST_F(GenerateTest, AReaderThatGoesAwayCancelsTheCall) {
  gateway_.hang = true;
  Pipe in;
  Pipe out;
  Pipe err;
  out.CloseRead();
  signal(SIGPIPE, SIG_IGN);
  Interrupt interrupt;
  Terminal terminal(in.read_end(), out.write_end(), err.write_end());
  EXPECT_EQ(RunCli({"--gateway", gateway_.address(), "generate", "x"}, terminal, interrupt), 141);
  EXPECT_TRUE(gateway_.cancelled().WaitForNotificationWithTimeout(absl::Minutes(1)));
}

TEST_F(GenerateTest, AFullDiskIsAnError) {
  const int full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  Pipe in;
  Pipe err;
  Interrupt interrupt;
  Terminal terminal(in.read_end(), full, err.write_end());
  EXPECT_EQ(RunCli({"--gateway", gateway_.address(), "generate", "x"}, terminal, interrupt), 1);
  close(full);
  char text[200];
  const ssize_t got = read(err.read_end(), text, sizeof text);
  ASSERT_GT(got, 0);
  EXPECT_EQ(std::string(text, static_cast<size_t>(got)),
            "baton: cannot write to standard output: No space left on device\n");
}

}  // namespace
}  // namespace baton::cli
