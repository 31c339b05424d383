#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <nlohmann/json.hpp>

#include "common/base/sha256.h"
#include "gateway/api_keys.h"
#include "tests/cli/cli_runner.h"
#include "tests/cli/fake_gateway.h"
#include "tests/temporary_directory.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(Key, NewShowsKeyAndLine) {
  const CliResult result = RunBaton({"key", "new", "alice", "concurrent=2", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json made = nlohmann::json::parse(result.out);
  const auto keys = ParseApiKeys(made["line"].get<std::string>());
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->front().sha256, Sha256(made["key"].get<std::string>()));
  EXPECT_EQ(keys->front().limits.concurrent, 2);
  EXPECT_THAT(RunBaton({"key", "new", "bob"}).out, MatchesRegex("key   baton_[^ \n]+\nline  bob [0-9a-f]+\n"));
}

TEST(Key, NewAppendsToAFileThatOthersCannotRead) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/keys";
  ASSERT_EQ(RunBaton({"key", "new", "alice", "--file", path}).code, 0);
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  // A line that somebody left without its end stays whole.
  std::ofstream(path, std::ios::app) << "# bob is next";
  const CliResult second = RunBaton({"key", "new", "bob", "--file", path});
  ASSERT_EQ(second.code, 0) << second.err;
  const auto keys = ParseApiKeys(Contents(path));
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ(second.out.back(), '\n');
  EXPECT_EQ((*keys)[1].sha256, Sha256(second.out.substr(0, second.out.size() - 1)));
}

TEST(Key, NewRefusesWhatTheFileCannotHold) {
  const CliResult name = RunBaton({"key", "new", "two words"});
  EXPECT_EQ(name.code, 2);
  EXPECT_THAT(name.err, HasSubstr("the name must be"));
  const CliResult limit = RunBaton({"key", "new", "alice", "concurrent=none"});
  EXPECT_EQ(limit.code, 2);
  EXPECT_THAT(limit.err, HasSubstr("\"concurrent=none\": expected a whole number"));
  EXPECT_EQ(RunBaton({"key", "new", "alice", "--file", "/nowhere/keys"}).code, 1);
}

TEST(Key, EveryCallCarriesIt) {
  FakeGateway gateway;
  const TemporaryFile file("from-a-file\n");
  ASSERT_EQ(RunBaton({"generate", "hi", "--gateway", gateway.address(), "--api-key", "given"}).code, 0);
  EXPECT_EQ(gateway.authorization(), "Bearer given");
  ASSERT_EQ(RunBaton({"generate", "hi", "--gateway", gateway.address(), "--api-key-file", file.path()}).code, 0);
  EXPECT_EQ(gateway.authorization(), "Bearer from-a-file");
  ASSERT_EQ(setenv("BATON_API_KEY", "from-the-environment", 1), 0);
  ASSERT_EQ(RunBaton({"generate", "hi", "--gateway", gateway.address()}).code, 0);
  ASSERT_EQ(unsetenv("BATON_API_KEY"), 0);
  EXPECT_EQ(gateway.authorization(), "Bearer from-the-environment");
  ASSERT_EQ(RunBaton({"generate", "hi", "--gateway", gateway.address()}).code, 0);
  EXPECT_EQ(gateway.authorization(), "");
}

TEST(Key, FilesThatHoldNoKey) {
  FakeGateway gateway;
  const TemporaryFile empty("\n");
  const TemporaryFile words("two words\n");
  EXPECT_THAT(RunBaton({"models", "--gateway", gateway.address(), "--api-key-file", empty.path()}).err,
              HasSubstr("is empty"));
  const CliResult result = RunBaton({"models", "--gateway", gateway.address(), "--api-key-file", words.path()});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("is no API key"));
  EXPECT_THAT(RunBaton({"models", "--gateway", gateway.address(), "--api-key-file", "/nowhere"}).err,
              HasSubstr("cannot read /nowhere"));
}

}  // namespace
}  // namespace baton::cli
