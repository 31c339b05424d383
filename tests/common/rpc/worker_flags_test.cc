#include "common/rpc/worker_flags.h"

#include <cstdlib>
#include <filesystem>

#include "common/base/bytes.h"
#include "common/rpc/command_line.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Parsed {
  WorkerFlags flags;
  absl::optional<int> exit_code;
  std::string out;
  std::string err;
};

Parsed Parse(std::vector<const char*> arguments) {
  Parsed parsed;
  parsed.flags.listen = "127.0.0.1:7201";
  CLI::App app("A worker.", "baton-test");
  AddWorkerFlags(app, &parsed.flags);
  arguments.insert(arguments.begin(), "baton-test");
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  parsed.exit_code = ParseCommandLine(app, static_cast<int>(arguments.size()), arguments.data());
  parsed.out = testing::internal::GetCapturedStdout();
  parsed.err = testing::internal::GetCapturedStderr();
  return parsed;
}

TEST(WorkerFlagsTest, DefaultsAreWhatTheStructSays) {
  const Parsed parsed = Parse({"--model", "/some/dir"});
  EXPECT_FALSE(parsed.exit_code.has_value()) << parsed.err;
  EXPECT_EQ(parsed.flags.model, "/some/dir");
  EXPECT_EQ(parsed.flags.listen, "127.0.0.1:7201");
  EXPECT_EQ(parsed.flags.metrics, "127.0.0.1:0");
  EXPECT_EQ(parsed.flags.engine.weights, WeightPrecision::kBf16);
  // The suite may be run with BATON_ISA set, which is the flag's environment variable.
  EXPECT_EQ(parsed.flags.engine.isa.has_value(), std::getenv("BATON_ISA") != nullptr);
  EXPECT_EQ(parsed.flags.engine.cache_dir, "");
  EXPECT_EQ(parsed.flags.engine.threads, 0);
  EXPECT_TRUE(parsed.flags.cpus.empty());
  EXPECT_EQ(parsed.flags.memory, 0);
  EXPECT_EQ(parsed.flags.max_tokens, 0);
  EXPECT_EQ(parsed.flags.grace_seconds, 30);
  EXPECT_FALSE(parsed.flags.log.json);
  EXPECT_EQ(parsed.flags.log.level, Severity::kInfo);
}

TEST(WorkerFlagsTest, EveryFlagArrives) {
  const Parsed parsed =
      Parse({"--model=m", "--model-name=n", "--listen=[::1]:0", "--metrics=off", "--weights=int4", "--isa=portable",
             "--cache-dir=/c", "--threads=3", "--cpus=0-1,5", "--memory=2GiB", "--max-tokens=100", "--grace=1.5",
             "--log-format=json", "--log-level=debug", "--inject-step-delay-ms=7"});
  EXPECT_FALSE(parsed.exit_code.has_value()) << parsed.err;
  EXPECT_EQ(parsed.flags.model_name, "n");
  EXPECT_EQ(parsed.flags.listen, "[::1]:0");
  EXPECT_EQ(parsed.flags.metrics, "off");
  EXPECT_EQ(parsed.flags.engine.weights, WeightPrecision::kInt4);
  EXPECT_EQ(parsed.flags.engine.isa, Isa::kPortable);
  EXPECT_EQ(parsed.flags.engine.CacheDirectory(), "/c");
  EXPECT_EQ(parsed.flags.engine.threads, 3);
  EXPECT_THAT(parsed.flags.cpus, ElementsAre(0, 1, 5));
  EXPECT_EQ(parsed.flags.memory, int64_t{2} << 30);
  EXPECT_EQ(parsed.flags.max_tokens, 100);
  EXPECT_EQ(parsed.flags.grace_seconds, 1.5);
  EXPECT_TRUE(parsed.flags.log.json);
  EXPECT_EQ(parsed.flags.log.level, Severity::kDebug);
  EXPECT_EQ(parsed.flags.inject_step_delay_ms, 7);
}

TEST(WorkerFlagsTest, MistakesAreOneLineThatNamesTheFlag) {
  const struct {
    std::vector<const char*> arguments;
    const char* named;
  } cases[] = {
      {{}, "--model"},
      {{"--modell", "x"}, "--modell"},
      {{"--model"}, "--model"},
      {{"--model=m", "stray"}, "stray"},
      {{"--model=m", "--listen=7201"}, "--listen"},
      {{"--model=m", "--listen=:7201"}, "--listen"},
      {{"--model=m", "--listen=host:"}, "--listen"},
      {{"--model=m", "--listen=host:http"}, "--listen"},
      {{"--model=m", "--listen=host:65536"}, "65535"},
      {{"--model=m", "--listen=host:-1"}, "--listen"},
      {{"--model=m", "--listen=::1:7201"}, "brackets"},
      {{"--model=m", "--metrics=on"}, "--metrics"},
      {{"--model=m", "--compute=int8"}, "--compute"},
      {{"--model=m", "--weights=int3"}, "int8a8"},
      {{"--model=m", "--weights=int8", "--compute=f32"}, "contradicts"},
      {{"--model=m", "--compute=bf16", "--weights=f32"}, "contradicts"},
      {{"--model=m", "--isa=sse9"}, "--isa"},
      {{"--model=m", "--threads=-1"}, "--threads"},
      {{"--model=m", "--threads=two"}, "--threads"},
      {{"--model=m", "--threads=99999"}, "--threads"},
      {{"--model=m", "--cpus=3-1"}, "--cpus"},
      {{"--model=m", "--memory=much"}, "--memory"},
      {{"--model=m", "--memory=0"}, "--memory"},
      {{"--model=m", "--memory=-1G"}, "--memory"},
      {{"--model=m", "--max-tokens=-1"}, "--max-tokens"},
      {{"--model=m", "--grace=-1"}, "--grace"},
      {{"--model=m", "--grace=nan"}, "--grace"},
      {{"--model=m", "--grace=nan"}, "--grace"},
      {{"--model=m", "--log-format=xml"}, "--log-format"},
      {{"--model=m", "--log-level=loud"}, "--log-level"},
      {{"--model=m", "--inject-step-delay-ms=-1"}, "--inject-step-delay-ms"},
  };
  for (const auto& c : cases) {
    const Parsed parsed = Parse(c.arguments);
    EXPECT_EQ(parsed.exit_code, 2) << c.named;
    EXPECT_THAT(parsed.err, HasSubstr(c.named));
    EXPECT_EQ(std::count(parsed.err.begin(), parsed.err.end(), '\n'), 1) << parsed.err;
    EXPECT_EQ(parsed.out, "");
  }
}

TEST(WorkerFlagsTest, ComputeIsTheOlderSpellingOfWeights) {
  EXPECT_EQ(Parse({"--model=m", "--compute=f32"}).flags.engine.weights, WeightPrecision::kF32);
  EXPECT_EQ(Parse({"--model=m", "--compute=bf16"}).flags.engine.weights, WeightPrecision::kBf16);
  const Parsed both = Parse({"--model=m", "--weights=f32", "--compute=f32"});
  EXPECT_FALSE(both.exit_code.has_value()) << both.err;
  EXPECT_EQ(both.flags.engine.weights, WeightPrecision::kF32);
}

TEST(WorkerFlagsTest, TheCacheIsWhereCachesAre) {
  const std::string directory = testing::TempDir() + "cache";
  ASSERT_EQ(setenv("XDG_CACHE_HOME", directory.c_str(), 1), 0);
  EXPECT_EQ(Parse({"--model=m"}).flags.engine.CacheDirectory(), directory + "/baton");
  EXPECT_EQ(Parse({"--model=m", "--cache-dir=none"}).flags.engine.CacheDirectory(), "");
  ASSERT_EQ(setenv("XDG_CACHE_HOME", "relative", 1), 0);
  ASSERT_EQ(setenv("HOME", "/home/someone", 1), 0);
  EXPECT_EQ(Parse({"--model=m"}).flags.engine.CacheDirectory(), "/home/someone/.cache/baton");
  ASSERT_EQ(unsetenv("XDG_CACHE_HOME"), 0);
  ASSERT_EQ(unsetenv("HOME"), 0);
  EXPECT_EQ(Parse({"--model=m"}).flags.engine.CacheDirectory(), "");
}

TEST(WorkerFlagsTest, TheInstructionSetMayComeFromTheEnvironment) {
  ASSERT_EQ(setenv("BATON_ISA", "portable", 1), 0);
  EXPECT_EQ(Parse({"--model=m"}).flags.engine.isa, Isa::kPortable);
  EXPECT_EQ(Parse({"--model=m", "--isa=auto"}).flags.engine.isa, SupportedIsas().back());
  ASSERT_EQ(setenv("BATON_ISA", "sse9", 1), 0);
  EXPECT_EQ(Parse({"--model=m"}).exit_code, 2);
  ASSERT_EQ(unsetenv("BATON_ISA"), 0);
}

TEST(WorkerFlagsTest, HelpAndVersionGoToStdout) {
  const Parsed help = Parse({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("--memory BYTES"));
  EXPECT_EQ(help.err, "");
  const Parsed version = Parse({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, HasSubstr("."));
}

TEST(WorkerFlagsTest, ModelsAreNamedAfterTheirDirectory) {
  const std::string directory = testing::TempDir() + "gemma-2-2b";
  std::filesystem::create_directories(directory);
  WorkerFlags flags;
  flags.model = directory;
  EXPECT_EQ(ServedModelName(flags).value(), "gemma-2-2b");
  flags.model = directory + "/";
  // A trailing slash leaves the last component empty, so it must not be taken as it is.
  EXPECT_EQ(ServedModelName(flags).value(), "gemma-2-2b");
  flags.model = directory + "/.";
  EXPECT_EQ(ServedModelName(flags).value(), "gemma-2-2b");
  flags.model_name = "mine";
  EXPECT_EQ(ServedModelName(flags).value(), "mine");
  for (const std::string& bad : {std::string("two words"), std::string(129, 'a'), std::string("quo\"te"),
                                 std::string("caf\xc3\xa9"), std::string("line\nbreak")}) {
    flags.model_name = bad;
    EXPECT_EQ(ServedModelName(flags).status().code(), absl::StatusCode::kInvalidArgument);
  }
  flags.model_name.clear();
  flags.model = "/";
  EXPECT_THAT(std::string(ServedModelName(flags).status().message()), HasSubstr("--model-name"));
}

TEST(WorkerFlagsTest, MemoryAndMaxTokensHaveDefaults) {
  WorkerFlags flags;
  EXPECT_GT(StateMemoryBytes(flags), int64_t{64} << 20);
  flags.memory = 12345;
  EXPECT_EQ(StateMemoryBytes(flags), 12345);
  ModelConfig config;
  config.max_tokens = 8192;
  EXPECT_EQ(ServedMaxTokens(flags, config), 8192);
  flags.max_tokens = 100;
  EXPECT_EQ(ServedMaxTokens(flags, config), 100);
  flags.max_tokens = 100000;
  EXPECT_EQ(ServedMaxTokens(flags, config), 8192);
}

TEST(WorkerFlagsTest, LoadsAModel) {
  WorkerFlags flags;
  flags.engine.threads = 1;
  flags.engine.cache_dir = "none";
  flags.model = std::string(BATON_BUNDLED_MODELS) + "/tiny-gemma2";
  auto checkpoint = Checkpoint::Open(flags.model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto model = LoadModel(flags, *std::move(checkpoint));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->compute(), ComputeMode::kBF16);
}

}  // namespace
}  // namespace baton
