// What failures look like, on the command line and in the exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/rpc/status_mapping.h"
#include "tests/cli/cli_runner.h"
#include "tests/cli/fake_gateway.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

struct FailureCase {
  const char* name;
  absl::Status failure;
  int code;
  // Of stderr, whole.
  const char* text;
};

class GatewayFailures : public testing::TestWithParam<FailureCase> {};

TEST_P(GatewayFailures, OneLineAndItsExitCode) {
  FakeGateway gateway;
  gateway.failure = GetParam().failure;
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"generate", "hi"}, {"generate", "hi", "--json"}, {"tokenize", "hi"}, {"status"}}) {
    std::vector<std::string> all = {"--gateway", gateway.address()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const CliResult result = RunBaton(all);
    EXPECT_EQ(result.code, GetParam().code) << arguments[0];
    EXPECT_EQ(result.out, "") << arguments[0];
    if (arguments.back() != "--json") {
      EXPECT_EQ(result.err, GetParam().text) << arguments[0];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, GatewayFailures,
    testing::Values(
        FailureCase{"internal", absl::InternalError("something broke."), 1, "baton: something broke\n"},
        FailureCase{"model_not_found", WithReason(absl::NotFoundError("no model \"x\" here"), "MODEL_NOT_FOUND"), 1,
                    "baton: no model \"x\" here\n"},
        FailureCase{
            "ambiguous",
            WithReason(BadRequestError({{"model", "is empty, and there are several: a, b"}}), "MODEL_AMBIGUOUS"), 2,
            "baton: model: is empty, and there are several: a, b; choose one with --model\n"},
        FailureCase{"no_workers", WithReason(absl::UnavailableError("no worker serves alpha"), "NO_WORKERS"), 1,
                    "baton: no worker serves alpha; `baton status` shows the workers\n"},
        FailureCase{"field", BadRequestError({{"sampling.top_p", "must be in (0, 1]"}}), 2,
                    "baton: sampling.top_p: must be in (0, 1]\n"},
        FailureCase{"fields",
                    BadRequestError({{"sampling.top_p", "must be in (0, 1]"}, {"stopping.stop", "at most 16"}}), 2,
                    "baton: the request has 2 invalid fields\n  sampling.top_p: must be in (0, 1]\n"
                    "  stopping.stop: at most 16\n"},
        FailureCase{"overloaded",
                    WithRetryAfter(absl::ResourceExhaustedError("the queue is full"), absl::Seconds(2), "QUEUE_FULL"),
                    4, "baton: the queue is full; try again in 2s\n"},
        FailureCase{"too_large", absl::ResourceExhaustedError("message too large"), 1, "baton: message too large\n"},
        FailureCase{"deadline", absl::DeadlineExceededError("too slow"), 5,
                    "baton: too slow; --timeout allows more time\n"},
        FailureCase{"lines", absl::InternalError("a\nb\x1b[2J"), 1, "baton: a b\xEF\xBF\xBD[2J\n"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ExitCodes, FailuresForMachines) {
  FakeGateway gateway;
  gateway.failure = WithRetryAfter(absl::ResourceExhaustedError("the queue is full"), absl::Seconds(2), "QUEUE_FULL");
  const CliResult result = RunBaton({"generate", "hi", "--json", "--gateway", gateway.address()});
  EXPECT_EQ(result.code, 4);
  const auto error = nlohmann::json::parse(result.err)["error"];
  EXPECT_EQ(error["code"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(error["reason"], "QUEUE_FULL");
  EXPECT_EQ(error["retry_after_seconds"], 2.0);

  gateway.failure = BadRequestError({{"sampling.top_p", "must be in (0, 1]"}});
  const auto violations = nlohmann::json::parse(
      RunBaton({"generate", "hi", "--json", "--gateway", gateway.address()}).err)["error"]["violations"];
  EXPECT_EQ(violations, nlohmann::json::parse(R"([{"field":"sampling.top_p","description":"must be in (0, 1]"}])"));
}

TEST(ExitCodes, NobodyAnswers) {
  std::string address;
  {
    FakeGateway gateway;
    address = gateway.address();
  }
  const CliResult result = RunBaton({"models", "--gateway", address});
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.err,
            "baton: cannot reach a gateway at " + address + "; start one with ./deploy/up or pass --gateway\n");
  EXPECT_EQ(RunBaton({"version", "--gateway", address}).code, 0);
}

TEST(ExitCodes, AnAddressThatIsNone) {
  for (const char* address : {"localhost", ":7000", "localhost:", "localhost:http", "a b:1"}) {
    const CliResult result = RunBaton({"models", "--gateway", address});
    EXPECT_EQ(result.code, 2) << address;
    EXPECT_THAT(result.err, HasSubstr("is not HOST:PORT")) << address;
  }
}

TEST(ExitCodes, AServerThatIsNoGateway) {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  // A server needs some service; nobody calls this one.
  v1::Fleet::Service fleet;
  builder.RegisterService(&fleet);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const CliResult result = RunBaton({"models", "--gateway", "127.0.0.1:" + std::to_string(port)});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("does not serve Baton's public API; pass the gateway's address"));
}

TEST(ExitCodes, DeadlineOfACall) {
  FakeGateway gateway;
  gateway.hang = true;
  const CliResult result = RunBaton({"generate", "hi", "--timeout", "0.2", "--gateway", gateway.address()});
  EXPECT_EQ(result.code, 5);
  EXPECT_EQ(result.err, "baton: no answer within 200ms; --timeout allows more time\n");
  EXPECT_TRUE(gateway.cancelled().WaitForNotificationWithTimeout(absl::Minutes(1)));
}

TEST(ExitCodes, AnAnswerThatEndsWithoutSayingWhy) {
  FakeGateway gateway;
  gateway.cut_short = true;
  const CliResult result = RunBaton({"generate", "hi", "--gateway", gateway.address()});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.out, "The capital of France is Paris.\n");
  EXPECT_EQ(result.err, "baton: the gateway ended the answer without saying why\n");
}

struct UsageCase {
  const char* name;
  std::vector<std::string> arguments;
  const char* text;
};

class Usage : public testing::TestWithParam<UsageCase> {};

// Nobody listens at this address: what fails here fails before any call.
TEST_P(Usage, OneLineAndCodeTwo) {
  const CliResult result = RunBaton(GetParam().arguments);
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, MatchesRegex("baton: [^\n]+\n"));
  EXPECT_THAT(result.err, HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(
    All, Usage,
    testing::Values(
        UsageCase{"command", {"explode"}, "there is no command \"explode\""},
        UsageCase{"flag", {"generate", "hi", "--colour"}, "--colour"},
        UsageCase{"global_flag", {"--frobnicate", "models"}, "--frobnicate"},
        UsageCase{"number", {"generate", "hi", "--temperature", "warm"}, "warm"},
        UsageCase{"integer", {"generate", "hi", "--top-k", "1.5"}, "1.5"},
        UsageCase{"negative_seed", {"generate", "hi", "--seed", "-1"}, "-1"},
        UsageCase{"negative_synth_seed", {"synth", "--preset", "gemma-2-2b", "--out", "x", "--seed", "-1"}, "-1"},
        UsageCase{"overflow", {"generate", "hi", "--top-k", "99999999999"}, "99999999999"},
        UsageCase{"value", {"generate", "hi", "--stop"}, "--stop"},
        UsageCase{"timeout", {"models", "--timeout", "0"}, "--timeout"},
        UsageCase{"words", {"generate", "two", "words"}, "words"},
        UsageCase{"logit_bias", {"generate", "hi", "--logit-bias", "7:1"}, "7:1"},
        UsageCase{"prompts", {"generate", "hi", "--file", "x"}, "more than one prompt"},
        UsageCase{"chat_and_raw", {"generate", "hi", "--chat", "--raw"}, "contradict"},
        UsageCase{"raw_messages", {"generate", "--raw", "--messages", "x"}, "--messages"},
        UsageCase{"bos", {"generate", "hi", "--no-bos"}, "--raw"},
        UsageCase{"utf8", {"generate", "a\xFF"}, "not UTF-8 text (byte 1)"},
        UsageCase{"stop_utf8", {"generate", "hi", "--stop", "\xFF"}, "not UTF-8"},
        UsageCase{"tokens", {"generate", "--tokens", "1,x"}, "\"x\" is not a number"},
        UsageCase{"file", {"generate", "--file", "/nowhere/x"}, "cannot open /nowhere/x"},
        UsageCase{"score_nothing", {"score", "hi"}, "--continuation"},
        UsageCase{"score_both", {"score", "hi", "--jsonl", "x"}, "--jsonl"},
        UsageCase{"tokenize_both", {"tokenize", "hi", "--jsonl"}, "--jsonl"},
        UsageCase{"detokenize", {"detokenize", "a", "--model-dir", BATON_BUNDLED_MODELS "/tiny-gemma2"}, "\"a\""},
        UsageCase{"synth_nothing", {"synth", "--out", "x"}, "--preset"},
        UsageCase{"synth_both", {"synth", "--out", "x", "--preset", "gemma-2-2b", "--config", "y"}, "--preset"},
        UsageCase{"synth_out", {"synth", "--preset", "gemma-2-2b"}, "--out"},
        UsageCase{"synth_dtype", {"synth", "--preset", "gemma-2-2b", "--out", "x", "--dtype", "int4"}, "int4"},
        UsageCase{"synth_preset", {"synth", "--preset", "gemma-9", "--out", "/nowhere/x"}, "gemma-2-9b"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Help, EveryCommandExplainsItself) {
  const CliResult all = RunBaton({"--help"});
  EXPECT_EQ(all.code, 0);
  EXPECT_EQ(all.err, "");
  EXPECT_THAT(all.out, HasSubstr("Exit codes"));
  for (const char* command :
       {"generate", "chat", "score", "tokenize", "detokenize", "models", "status", "synth", "version"}) {
    EXPECT_THAT(all.out, HasSubstr(command));
    const CliResult one = RunBaton({command, "--help"});
    EXPECT_EQ(one.code, 0) << command;
    EXPECT_THAT(one.out, HasSubstr(command));
  }
  EXPECT_EQ(RunBaton({"--version"}).out, "baton 0.1.0\n");
  const CliResult bare = RunBaton({});
  EXPECT_EQ(bare.code, 2);
  EXPECT_THAT(bare.err, HasSubstr("generate"));
}

}  // namespace
}  // namespace baton::cli
