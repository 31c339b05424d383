// baton trace: the picture and its JSON.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "common/rpc/status_mapping.h"
#include "tests/cli/cli_runner.h"
#include "tests/cli/fake_gateway.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kBegin = 1700000000'000000000;
constexpr uint64_t kMilli = 1000000;

class TraceTest : public testing::Test {
 protected:
  TraceTest() {
    gateway_.trace.set_trace_id("4bf92f3577b34da6a3ce929d0e0e4736");
    v1::TraceSpan* const root = Add("r", "cc", "baton.v1.Inference/GenerateStream", "server", 0, 100);
    Text(root, "gen_ai.request.model", "alpha");
    Number(root, "gen_ai.usage.output_tokens", 40);
    Event(root, "first token", 25);
    Add("q", "r", "queue", "internal", 0, 10);
    v1::TraceSpan* const failed = Add("a1", "r", "attempt", "internal", 10, 50);
    Number(failed, "baton.attempt", 1);
    Text(failed, "error.type", "lost");
    failed->set_failed(true);
    failed->set_error("decode worker 10.0.0.2:7201: connection reset");
    Text(Add("d1", "a1", "baton.worker.v1.Decode/Run", "client", 10, 50), "server.address", "10.0.0.2:7201");
    Number(Add("a2", "r", "attempt", "internal", 50, 100), "baton.attempt", 2);
    Text(Add("d2", "a2", "baton.worker.v1.Decode/Run", "client", 50, 100), "server.address", "10.0.0.3:7201");
    v1::TraceSpan* const run = Add("s2", "d2", "baton.worker.v1.Decode/Run", "server", 51, 99);
    run->set_role("decode");
    run->set_endpoint("10.0.0.3:7201");
    run->set_boot_id("b3");
    v1::MissingSpans* const missing = gateway_.trace.add_missing();
    missing->set_endpoint("10.0.0.2:7201");
    missing->set_reason("the worker does not answer: refused");
  }

  v1::TraceSpan* Add(const std::string& id, const std::string& parent, const std::string& name, const std::string& kind,
                     uint64_t start, uint64_t end) {
    v1::TraceSpan* const span = gateway_.trace.add_spans();
    span->set_span_id(id);
    span->set_parent_span_id(parent);
    span->set_name(name);
    span->set_kind(kind);
    span->set_role("gateway");
    span->set_boot_id("b1");
    span->set_start_unix_nanos(kBegin + start * kMilli);
    if (end > 0) span->set_end_unix_nanos(kBegin + end * kMilli);
    return span;
  }
  static void Text(v1::TraceSpan* span, const std::string& key, const std::string& value) {
    v1::TraceAttribute* const attribute = span->add_attributes();
    attribute->set_key(key);
    attribute->set_text(value);
  }
  static void Number(v1::TraceSpan* span, const std::string& key, int64_t value) {
    v1::TraceAttribute* const attribute = span->add_attributes();
    attribute->set_key(key);
    attribute->set_number(value);
  }
  static void Event(v1::TraceSpan* span, const std::string& name, uint64_t at) {
    v1::TraceEvent* const event = span->add_events();
    event->set_name(name);
    event->set_unix_nanos(kBegin + at * kMilli);
  }
  CliResult Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--gateway", gateway_.address(), "trace"});
    return RunBaton(arguments);
  }

  FakeGateway gateway_;
};

TEST_F(TraceTest, Picture) {
  const CliResult result = Run({"req-1"});
  EXPECT_EQ(result.code, 0);
  const size_t table = result.out.find("   ");
  EXPECT_THAT(result.out, HasSubstr("request req-1  trace 4bf92f3577b34da6a3ce929d0e0e4736\n"
                                    "alpha, 40 output tokens, first token after 25 ms\n"));
  EXPECT_THAT(
      result.out,
      HasSubstr("\ngw  gateway  boot b1\nD1  decode 10.0.0.2:7201  (see below)\nD2  decode 10.0.0.3:7201  boot b3\n"));
  ASSERT_NE(table, std::string::npos);
  const std::vector<std::string> lines = absl::StrSplit(result.out, '\n');
  const auto row = [&](const std::string& what) {
    const auto found = std::find_if(lines.begin(), lines.end(),
                                    [&](const std::string& line) { return absl::StrContains(line, what); });
    return found == lines.end() ? std::string() : *found;
  };
  EXPECT_EQ(row("GenerateStream").substr(0, 23), "gw     0 us    100 ms  ") << result.out;
  EXPECT_THAT(row("GenerateStream"), HasSubstr("####"));
  EXPECT_EQ(row("  queue").substr(0, 30), "gw     0 us     10 ms    queue");
  EXPECT_THAT(row("* first token"), Not(HasSubstr("#")));
  EXPECT_EQ(row("D2    51 ms").substr(0, 41), "D2    51 ms     48 ms        Decode/Run  ");
  EXPECT_THAT(result.out, HasSubstr("! lost: decode worker 10.0.0.2:7201: connection reset\n"));
  EXPECT_THAT(result.out, HasSubstr("missing: the part of 10.0.0.2:7201: the worker does not answer: refused\n"));
  // In the order of time, children below their parents.
  size_t last = 0;
  for (const char* what : {"GenerateStream", "queue", "attempt 1", "call Decode/Run at D1", "first token", "attempt 2",
                           "call Decode/Run at D2", "D2  "}) {
    const size_t at = result.out.find(what, last);
    ASSERT_NE(at, std::string::npos) << what << " after " << last << " in\n" << result.out;
    last = at;
  }
  EXPECT_THAT(result.out, Not(HasSubstr("\033")));
  EXPECT_THAT(Run({"req-1", "--attributes"}).out, HasSubstr("gen_ai.request.model = alpha\n"));
}

TEST_F(TraceTest, AHedgeAndWhoWonAreSeen) {
  v1::TraceSpan* const slow = Add("a3", "r", "attempt", "internal", 50, 80);
  Number(slow, "baton.attempt", 3);
  Text(slow, "baton.race", "lost");
  v1::TraceSpan* const hedge = Add("a4", "r", "attempt", "internal", 60, 100);
  Number(hedge, "baton.attempt", 4);
  v1::TraceAttribute* const mark = hedge->add_attributes();
  mark->set_key("baton.hedge");
  mark->set_flag(true);
  Text(hedge, "baton.race", "won");
  const auto result = Run({"req-1"});
  EXPECT_THAT(result.out, HasSubstr("attempt 3, lost  "));
  EXPECT_THAT(result.out, HasSubstr("attempt 4, hedge, won  "));
}

TEST_F(TraceTest, FitsTheTerminal) {
  for (const int columns : {40, 60, 80, 200}) {
    BatonOnTerminal baton({"--gateway", gateway_.address(), "--no-color", "trace", "req-1"}, columns);
    // What the program has written may reach the screen after its end.
    EXPECT_TRUE(baton.WaitFor("worker does not answer: refused"));
    EXPECT_EQ(baton.ExitCode(), 0);
    const std::string screen = baton.screen();
    EXPECT_THAT(screen, HasSubstr("Inference/Gener"));
    if (columns >= 60) EXPECT_THAT(screen, HasSubstr("\u2588"));
    const std::vector<std::string> lines = absl::StrSplit(screen, '\n');
    bool rows = false;
    for (const std::string& line : lines) {
      if (absl::StartsWith(line, "missing")) break;
      rows |= absl::StrContains(line, "START");
      if (!rows) continue;
      const auto width = std::count_if(
          line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80 && c != '\r'; });
      EXPECT_LE(width, columns) << line;
    }
    EXPECT_TRUE(rows);
  }
}

TEST_F(TraceTest, Json) {
  const auto json = nlohmann::json::parse(Run({"req-1", "--json"}).out);
  EXPECT_EQ(json["request_id"], "req-1");
  ASSERT_EQ(json["resourceSpans"].size(), 2u);
  const auto& gateway = json["resourceSpans"][0];
  EXPECT_EQ(gateway["resource"]["attributes"][0]["value"]["stringValue"], "baton-gateway");
  const auto& root = gateway["scopeSpans"][0]["spans"][0];
  EXPECT_EQ(root["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(root["spanId"], "r");
  EXPECT_EQ(root["kind"], 2);
  EXPECT_EQ(root["startTimeUnixNano"], "1700000000000000000");
  EXPECT_EQ(root["attributes"][1]["value"]["intValue"], "40");
  EXPECT_EQ(root["events"][0]["name"], "first token");
  const auto& failed = gateway["scopeSpans"][0]["spans"][2];
  EXPECT_EQ(failed["parentSpanId"], "r");
  EXPECT_EQ(failed["status"]["code"], 2);
  EXPECT_EQ(json["resourceSpans"][1]["scopeSpans"][0]["spans"][0]["spanId"], "s2");
  EXPECT_EQ(json["missing"][0]["endpoint"], "10.0.0.2:7201");
}

TEST_F(TraceTest, OddAnswersAreShownSomehow) {
  gateway_.trace.Clear();
  Add("r", "", "root", "server", 5, 0);
  // A child before its parent, by another clock; an orphan; a circle; nothing in a name that could move the cursor.
  Add("c", "r", "child", "internal", 1, 3);
  Add("o", "gone", "orphan\033[2J", "internal", 6, 7);
  Add("x", "y", "circle", "internal", 6, 7);
  Add("y", "x", "circle", "internal", 6, 7);
  Add("r", "r", "itself", "internal", 6, 7);
  const CliResult result = Run({"req-1"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, HasSubstr("still running"));
  EXPECT_THAT(result.out, HasSubstr(" >"));
  EXPECT_THAT(result.out, HasSubstr("-4 ms"));
  EXPECT_THAT(result.out, HasSubstr("orphan"));
  EXPECT_THAT(result.out, Not(HasSubstr("\033")));
  gateway_.trace.Clear();
  EXPECT_EQ(Run({"req-1"}).code, 1);
}

TEST_F(TraceTest, Failures) {
  gateway_.failure = WithReason(absl::NotFoundError("no request \"req-9\" among the last"), "TRACE_NOT_FOUND");
  const CliResult result = Run({"req-9"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("no request \"req-9\" among the last"));
  EXPECT_EQ(Run({}).code, 2);
}

}  // namespace
}  // namespace baton::cli
