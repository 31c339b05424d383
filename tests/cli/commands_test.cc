// score, tokenize, detokenize, models, version, synth and pack.
#include <sys/stat.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/base/mapped_file.h"
#include "tests/cli/cli_runner.h"
#include "tests/cli/fake_gateway.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CommandsTest : public testing::Test {
 protected:
  CliResult Run(std::vector<std::string> arguments, absl::string_view standard_input = "") {
    arguments.insert(arguments.begin(), {"--gateway", gateway_.address()});
    return RunBaton(arguments, standard_input);
  }
  FakeGateway gateway_;
};

// The score of a text is minus its length; one token each.
v1::ScoreResponse MinusLength(const v1::ScoreRequest& request) {
  v1::ScoreResponse response;
  response.set_model("alpha");
  for (const v1::Continuation& continuation : request.continuations()) {
    v1::ContinuationScore* score = response.add_scores();
    score->set_logprob(-static_cast<double>(continuation.text().size() + request.text().text().size()));
    score->set_is_greedy(continuation.text() == " Paris");
    v1::TokenLogprob* token = score->add_tokens();
    token->set_id(5);
    token->set_logprob(-0.5F);
    token->set_piece(continuation.text());
  }
  return response;
}

TEST_F(CommandsTest, ScoreShowsATable) {
  gateway_.score = MinusLength;
  const CliResult result = Run({"score", "", "-c", " Paris", "-c", " Rome\n"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out,
            "LOGPROB  PER TOKEN  TOKENS  GREEDY  CONTINUATION\n"
            "-6.0000    -6.0000       1  yes     \" Paris\"\n"
            "-6.0000    -6.0000       1  no      \" Rome\\n\"\n");
  EXPECT_THAT(Run({"score", "", "-c", " Paris", "--logprobs"}).out, HasSubstr("\n\" Paris\"\n  -0.5000  \" Paris\"\n"));
}

TEST_F(CommandsTest, ScoreForMachines) {
  gateway_.score = MinusLength;
  const auto result = nlohmann::json::parse(Run({"score", "ab", "-c", " Paris", "-c", "x", "--json"}).out);
  EXPECT_EQ(result["scores"][0]["logprob"], -8.0);
  EXPECT_EQ(result["scores"][0]["is_greedy"], true);
  EXPECT_EQ(result["scores"][1]["tokens"][0]["piece"], "x");
}

TEST_F(CommandsTest, ScoreReadsLinesAndKeepsTheirOrder) {
  gateway_.score = MinusLength;
  std::string input;
  for (int i = 0; i < 100; ++i) {
    input += nlohmann::json{{"context", ""}, {"continuation", std::string(static_cast<size_t>(i), 'x')}}.dump() + "\n";
  }
  input += R"({"context": "ab", "continuation": ["c", "de"]})";
  const CliResult result = Run({"score", "--jsonl", "-"}, input);
  ASSERT_EQ(result.code, 0) << result.err;
  std::istringstream lines(result.out);
  std::string line;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(std::getline(lines, line));
    ASSERT_EQ(nlohmann::json::parse(line)["logprob"], -i);
  }
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(nlohmann::json::parse(line)["scores"][1]["logprob"], -4);
  EXPECT_FALSE(std::getline(lines, line));
}

TEST_F(CommandsTest, ScoreNamesTheLineThatIsWrong) {
  gateway_.score = MinusLength;
  const std::string good = R"({"context": "a", "continuation": "b"})";
  for (const std::string bad : {"", "{", "[]", R"({"context": "a"})", R"({"context": 1, "continuation": "b"})",
                                R"({"context": "a", "continuation": [1]})"}) {
    const CliResult result = Run({"score", "--jsonl", "-"}, good + "\n" + bad + "\n" + good + "\n");
    EXPECT_EQ(result.code, 2) << bad;
    EXPECT_THAT(result.err, HasSubstr("baton: line 2: it is ")) << bad;
    EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1) << bad;
  }
}

TEST_F(CommandsTest, TokenizeThroughTheGateway) {
  EXPECT_EQ(Run({"tokenize", "ab"}).out, "2 97 98\n");
  EXPECT_EQ(Run({"tokenize", "--no-bos", "--pieces", "a\n"}).out, "97\t\"a\"\n10\t\"\\n\"\n");
  EXPECT_EQ(Run({"tokenize", "--json"}, "a\n").out, "{\"ids\":[2,97],\"pieces\":[\"<bos>\",\"a\"]}\n");
  EXPECT_EQ(Run({"tokenize", "--jsonl", "--no-bos"}, "\"a\"\n\"\\n\"\n\"\"\n").out, "[97]\n[10]\n[]\n");
  const CliResult bad = Run({"tokenize", "--jsonl"}, "\"a\"\nb\n");
  EXPECT_EQ(bad.code, 2);
  EXPECT_EQ(bad.err, "baton: line 2: it is not a JSON string\n");
}

TEST_F(CommandsTest, DetokenizeThroughTheGateway) {
  EXPECT_EQ(Run({"detokenize", "97", "98"}).out, "ab\n");
  EXPECT_EQ(Run({"detokenize", "97,98"}).out, "ab\n");
  EXPECT_EQ(Run({"detokenize"}, "[97, 98]").out, "ab\n");
  EXPECT_EQ(Run({"detokenize", "--json", "97"}).out, "{\"text\":\"a\"}\n");
  EXPECT_EQ(Run({"detokenize", "--jsonl"}, "[97]\n[10,98]\n").out, "\"a\"\n\"\\nb\"\n");
}

TEST(Offline, TokenizeAndBack) {
  const std::string directory = BATON_BUNDLED_MODELS "/tiny-gemma2";
  const CliResult ids = RunBaton({"tokenize", "--model-dir", directory, "Hello, <start_of_turn>world \xE2\x82\xAC"});
  ASSERT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(ids.out.substr(0, 2), "2 ");
  const CliResult text = RunBaton({"detokenize", "--model-dir", directory, ids.out});
  EXPECT_EQ(text.out, "Hello, <start_of_turn>world \xE2\x82\xAC\n");

  const CliResult special =
      RunBaton({"tokenize", "--model-dir", directory, "--no-bos", "--parse-special", "<start_of_turn>"});
  EXPECT_EQ(special.out, "4\n");
  const CliResult chat = RunBaton({"tokenize", "--model-dir", directory, "--chat", "hi"});
  EXPECT_EQ(RunBaton({"detokenize", "--keep-special", "--model-dir", directory, chat.out}).out,
            "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n");

  const CliResult lines = RunBaton({"tokenize", "--model-dir", directory, "--jsonl"}, "\"a\\nb\"\n\"\"\n");
  EXPECT_EQ(RunBaton({"detokenize", "--model-dir", directory, "--jsonl"}, lines.out).out, "\"a\\nb\"\n\"\"\n");
}

TEST(Offline, TokenizeFailures) {
  const CliResult missing = RunBaton({"tokenize", "--model-dir", "/nowhere", "x"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/nowhere/tokenizer.model"));
  const CliResult range = RunBaton({"detokenize", "--model-dir", BATON_BUNDLED_MODELS "/tiny-gemma2", "--", "-1"});
  EXPECT_EQ(range.code, 2);
  EXPECT_EQ(range.err, "baton: token id -1 is not in 0..2047\n");
}

TEST_F(CommandsTest, Models) {
  gateway_.AddModel("beta", false);
  const CliResult result = Run({"models"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out,
            "MODEL  STATE      FAMILY  PARAMETERS  CONTEXT  WEIGHTS  PREFILL  DECODE  FINGERPRINT\n"
            "alpha  ready      gemma2       4.07M     8192  int8           1       1  0123456789ab\n"
            "beta   not ready  gemma2       4.07M     8192  int8           1       0  0123456789ab\n");
  const auto json = nlohmann::json::parse(Run({"models", "--json"}).out);
  EXPECT_EQ(json["models"][1]["ready"], false);
  EXPECT_EQ(json["models"][0]["max_tokens"], 8192);
  EXPECT_EQ(json["models"][0]["compute"], "bf16");
  EXPECT_EQ(json["models"][0]["weights"], "int8");
  gateway_.models.Clear();
  const CliResult none = Run({"models"});
  EXPECT_EQ(none.out, "");
  EXPECT_THAT(none.err, HasSubstr("no models"));
}

TEST_F(CommandsTest, Version) {
  gateway_.fleet_status.set_gateway_version("9.9.9");
  EXPECT_EQ(Run({"version"}).out, "baton 0.1.0\ngateway 9.9.9 at " + gateway_.address() + "\n");
  EXPECT_EQ(Run({"version", "--json"}).out, "{\"client\":\"0.1.0\",\"gateway\":\"9.9.9\"}\n");
}

TEST_F(CommandsTest, Health) {
  gateway_.SetServing(true);
  const CliResult serving = Run({"health"});
  EXPECT_EQ(serving.code, 0) << serving.err;
  EXPECT_EQ(serving.out, "SERVING\n");
  EXPECT_EQ(Run({"health", "--json"}).out, "{\"status\":\"SERVING\"}\n");

  gateway_.SetServing(false);
  const CliResult draining = Run({"health"});
  EXPECT_EQ(draining.code, 1);
  EXPECT_EQ(draining.out, "NOT_SERVING\n");
  EXPECT_THAT(draining.err, HasSubstr("is not serving"));

  const CliResult unknown = Run({"health", "--service", "no.Such"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("has no service \"no.Such\""));
  gateway_.Stop();
  EXPECT_EQ(Run({"health"}).code, 3);
}

TEST(Synth, WritesACheckpointAndSaysSo) {
  const std::string config = BATON_BUNDLED_MODELS "/tiny-recurrentgemma/config.json";
  const TemporaryFile name("");
  const std::string out = name.path() + "-checkpoint";
  const CliResult result = RunBaton({"synth", "--config", config, "--out", out, "--seed", "7", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto summary = nlohmann::json::parse(result.out);
  EXPECT_EQ(summary["parameters"], 4151552);
  EXPECT_EQ(summary["tensor_bytes"], 2 * 4151552);
  EXPECT_TRUE(ReadFile(out + "/config.json").ok());

  const CliResult again = RunBaton({"synth", "--config", config, "--out", out});
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, HasSubstr("not empty"));
  BatonOnTerminal forced({"synth", "--config", config, "--out", out, "--force"});
  EXPECT_EQ(forced.ExitCode(), 0);
  EXPECT_THAT(forced.screen(), HasSubstr("100%"));
  EXPECT_THAT(forced.screen(), HasSubstr("wrote "));
}

TEST(Pack, PacksOnceAndSaysWhere) {
  const std::string model = BATON_BUNDLED_MODELS "/tiny-recurrentgemma";
  const TemporaryFile name("");
  const std::string cache = name.path() + "-cache";
  const CliResult first = RunBaton({"pack", "--model", model, "--weights", "int8", "--cache-dir", cache, "--json"});
  ASSERT_EQ(first.code, 0) << first.err;
  const auto summary = nlohmann::json::parse(first.out);
  EXPECT_EQ(summary["weights"], "int8");
  EXPECT_TRUE(summary["packed"].get<bool>());
  const std::string path = summary["path"];
  EXPECT_THAT(path, testing::StartsWith(cache + "/"));
  EXPECT_TRUE(ReadFile(path).ok());

  const CliResult again = RunBaton({"pack", "--model", model, "--weights", "int8", "--cache-dir", cache});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("was there already"));
  BatonOnTerminal other({"pack", "--model", model, "--weights", "int4", "--cache-dir", cache});
  EXPECT_EQ(other.ExitCode(), 0);
  EXPECT_THAT(other.screen(), HasSubstr("100%"));
  EXPECT_THAT(other.screen(), HasSubstr("int4"));
}

TEST(Pack, SaysWhatIsWrong) {
  const std::string model = BATON_BUNDLED_MODELS "/tiny-recurrentgemma";
  EXPECT_EQ(RunBaton({"pack"}).code, 2);
  EXPECT_EQ(RunBaton({"pack", "--model", model, "--weights", "int3"}).code, 2);
  EXPECT_EQ(RunBaton({"pack", "--model", model, "--cache-dir", "none"}).code, 2);
  const CliResult missing = RunBaton({"pack", "--model", "/no/such/model", "--cache-dir", "/tmp"});
  EXPECT_NE(missing.code, 0);
  EXPECT_THAT(missing.err, HasSubstr("/no/such/model"));
  const CliResult unusable = RunBaton({"pack", "--model", model, "--cache-dir", "/proc/baton"});
  EXPECT_EQ(unusable.code, 1);
  EXPECT_THAT(unusable.err, HasSubstr("/proc/baton"));
}

TEST(Synth, ListsItsPresets) {
  const CliResult result = RunBaton({"synth", "--list-presets"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, HasSubstr("recurrentgemma-2b"));
  EXPECT_THAT(result.out, HasSubstr("2.61B"));
}

}  // namespace
}  // namespace baton::cli
