// What `baton status` shows, what keys make of it, and screens it has to fit.
#include <algorithm>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gateway/cli/format.h"
#include "gateway/cli/keys.h"
#include "gateway/cli/status_columns.h"
#include "gateway/cli/status_picture.h"
#include "gateway/cli/status_view.h"
#include "tests/cli/cli_runner.h"

namespace baton::cli {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

v1::WorkerStatus* AddWorker(v1::GetStatusResponse* status, const std::string& role, const std::string& endpoint) {
  v1::WorkerStatus* const worker = status->add_workers();
  worker->set_role(role);
  worker->set_endpoint(endpoint);
  worker->set_model("gemma");
  worker->set_state("SERVING");
  worker->set_state_bytes_total(int64_t{2} << 30);
  worker->set_silent_seconds(0.2);
  worker->set_uptime_seconds(61);
  return worker;
}

// Two prefill and two decode workers that do something.
v1::GetStatusResponse BusyFleet() {
  v1::GetStatusResponse status;
  status.set_gateway_version("0.1.0");
  status.set_uptime_seconds(3600);
  status.set_running_requests(12);
  status.set_running_requests_limit(1024);
  status.set_queued_requests(3);
  status.set_queued_requests_limit(512);
  status.set_queued_tokens(8100);
  status.set_queued_tokens_limit(4 << 20);
  v1::Activity* const recent = status.mutable_recent();
  recent->set_seconds(10.4);
  recent->set_completed(40);
  recent->set_refused(2);
  recent->set_prompt_tokens(10400);
  recent->set_output_tokens(2080);
  recent->set_resumes(1);
  recent->mutable_time_to_first_token()->set_count(40);
  recent->mutable_time_to_first_token()->set_p50_seconds(0.12);
  recent->mutable_time_to_first_token()->set_p99_seconds(1.2);
  status.mutable_since_start()->set_seconds(3600);
  status.mutable_since_start()->set_completed(12034);
  v1::ModelStatus* const model = status.add_models();
  model->set_model("gemma");
  model->set_running_requests(5);
  model->mutable_recent()->set_seconds(10.4);
  model->mutable_recent()->set_output_tokens(104);

  v1::WorkerStatus* worker = AddWorker(&status, "decode", "10.0.0.2:7201");
  worker->set_running(9);
  worker->set_tokens_per_second(210);
  worker->set_sequences_per_step(8.5);
  worker->set_steps_per_second(25);
  worker->set_state_bytes_used(int64_t{1} << 30);
  worker->set_kept_sessions(3);
  worker->set_kept_session_bytes(50 << 20);
  worker = AddWorker(&status, "prefill", "10.0.0.1:7101");
  worker->set_queued(2);
  worker->set_queued_tokens(900);
  worker->set_tokens_per_second(1800);
  worker->set_cached_prompt_share(0.43);
  worker = AddWorker(&status, "decode", "10.0.0.3:7201");
  worker->set_paused(true);
  worker->set_pause_seconds(4);
  worker = AddWorker(&status, "prefill", "10.0.0.4:7101");
  worker->set_state("UNREACHABLE");
  worker->set_problem("failed to connect to all addresses");
  worker->set_silent_seconds(95);
  return status;
}

class StatusTest : public ::testing::Test {
 protected:
  StatusPicture Draw(const v1::GetStatusResponse& status) {
    StatusPicture picture = DrawStatus(status, view_, options_, terminal_);
    for (const std::string& line : picture.lines) {
      EXPECT_FALSE(absl::StrContains(line, "\n")) << line;
      EXPECT_TRUE(options_.width == 0 || Columns(line) <= static_cast<size_t>(options_.width)) << line;
    }
    EXPECT_TRUE(options_.rows == 0 || picture.lines.size() <= static_cast<size_t>(options_.rows));
    return picture;
  }
  std::string Text(const v1::GetStatusResponse& status) { return absl::StrJoin(Draw(status).lines, "\n"); }
  void Screen(int width, int rows) {
    options_.live = true;
    options_.bars = true;
    options_.width = width;
    options_.rows = rows;
  }
  std::vector<std::string> Order(const std::string& column, bool reversed, const v1::GetStatusResponse& status) {
    view_.sort = FindStatusColumn(column);
    EXPECT_GE(view_.sort, 0) << column;
    view_.reversed = reversed;
    std::vector<std::string> endpoints;
    for (const v1::WorkerStatus* worker : view_.Workers(status)) endpoints.push_back(worker->endpoint());
    return endpoints;
  }

  // Not a terminal: no colours, lines as they are.
  Pipe pipe_;
  Terminal terminal_{pipe_.read_end(), pipe_.write_end(), pipe_.write_end()};
  StatusView view_;
  StatusPictureOptions options_{.gateway = "127.0.0.1:7000"};
};

TEST_F(StatusTest, SaysWhatTheGatewayDoesAndOfWhichTime) {
  const std::string text = Text(BusyFleet());
  EXPECT_THAT(text, HasSubstr("gateway 127.0.0.1:7000  v0.1.0  up 1h00m"));
  EXPECT_THAT(text, HasSubstr("running 12 of 1024  queued 3 of 512  queued tokens 8100 of 4.19M"));
  EXPECT_THAT(text, HasSubstr("last 10 s   req/s 4.0  ok 3.8  failed 0  refused 0.19  rejected 0  cancelled 0"));
  EXPECT_THAT(text, HasSubstr("tokens/s in 1000  out 200    recovered 1  retried 0"));
  EXPECT_THAT(text, HasSubstr("TTFT p50 120 ms  p99 1.2 s    inter-token -"));
  EXPECT_THAT(text, HasSubstr("since start ok 12K  failed 0"));
}

TEST_F(StatusTest, SaysAllOfEachWorkerWhereThereIsRoom) {
  const std::vector<std::string> lines = Draw(BusyFleet()).lines;
  EXPECT_THAT(lines, Contains(AllOf(HasSubstr("10.0.0.2:7201"), HasSubstr("8.5"), HasSubstr("50% of 2.0 GiB"),
                                    HasSubstr("3 (50.0 MiB)"), HasSubstr("1m01s"))));
  EXPECT_THAT(lines, Contains(AllOf(HasSubstr("10.0.0.1:7101"), HasSubstr("43%"), HasSubstr("900"))));
  EXPECT_THAT(lines, Contains(AllOf(HasSubstr("10.0.0.3:7201"), HasSubstr("PAUSED 4s"))));
  EXPECT_THAT(lines, Contains("10.0.0.4:7101: failed to connect to all addresses"));
}

TEST_F(StatusTest, AnAbsentWorkerHasNoFigures) {
  const std::vector<std::string> lines = Draw(BusyFleet()).lines;
  const auto row =
      std::find_if(lines.begin(), lines.end(), [](const auto& l) { return absl::StrContains(l, "UNREACHABLE"); });
  ASSERT_NE(row, lines.end());
  EXPECT_THAT(*row, AllOf(HasSubstr("1m35s"), Not(HasSubstr("0%")), Not(HasSubstr(" 0 "))));
}

TEST_F(StatusTest, AModelsOwnFigures) {
  view_.model = "gemma";
  const std::string text = Text(BusyFleet());
  EXPECT_THAT(text, HasSubstr("model gemma"));
  EXPECT_THAT(text, HasSubstr("running 5  queued 0"));
  EXPECT_THAT(text, HasSubstr("out 10 "));
}

TEST_F(StatusTest, AnOlderGatewayTellsLess) {
  v1::GetStatusResponse status = BusyFleet();
  status.clear_recent();
  status.clear_since_start();
  EXPECT_THAT(Text(status), AllOf(HasSubstr("running 12"), Not(HasSubstr("TTFT")), HasSubstr("10.0.0.2:7201")));
}

TEST_F(StatusTest, SortsByEveryColumn) {
  const v1::GetStatusResponse status = BusyFleet();
  EXPECT_THAT(Order("model", false, status),
              ElementsAre("10.0.0.1:7101", "10.0.0.4:7101", "10.0.0.2:7201", "10.0.0.3:7201"));
  EXPECT_THAT(Order("endpoint", true, status),
              ElementsAre("10.0.0.4:7101", "10.0.0.3:7201", "10.0.0.2:7201", "10.0.0.1:7101"));
  // Largest first; absent ones last, also behind zeros.
  EXPECT_THAT(Order("tokens", false, status),
              ElementsAre("10.0.0.1:7101", "10.0.0.2:7201", "10.0.0.3:7201", "10.0.0.4:7101"));
  EXPECT_THAT(Order("tokens", true, status),
              ElementsAre("10.0.0.4:7101", "10.0.0.3:7201", "10.0.0.2:7201", "10.0.0.1:7101"));
  EXPECT_EQ(Order("heard", false, status).front(), "10.0.0.4:7101");
  EXPECT_EQ(Order("cached", false, status).front(), "10.0.0.1:7101");
  EXPECT_EQ(Order("memory", false, status).front(), "10.0.0.2:7201");
  for (const StatusColumn& column : StatusColumns()) EXPECT_EQ(Order(column.name, false, status).size(), 4u);
  EXPECT_EQ(FindStatusColumn("size"), -1);
}

TEST_F(StatusTest, FiltersByRoleAndModel) {
  v1::GetStatusResponse status = BusyFleet();
  AddWorker(&status, "decode", "10.0.0.9:7201")->set_model("other");
  EXPECT_TRUE(view_.Obey('p', status));
  EXPECT_EQ(view_.Workers(status).size(), 2u);
  EXPECT_THAT(Text(status), AllOf(HasSubstr("prefill only"), Not(HasSubstr("10.0.0.2:7201"))));
  view_.Obey('d', status);
  EXPECT_EQ(view_.Workers(status).size(), 3u);
  view_.Obey('m', status);
  EXPECT_EQ(view_.model, "gemma");
  view_.Obey('m', status);
  EXPECT_EQ(view_.model, "other");
  EXPECT_EQ(view_.Workers(status).size(), 1u);
  view_.Obey('p', status);
  EXPECT_THAT(Text(status), HasSubstr("no such workers among 5"));
  view_.Obey('m', status);
  EXPECT_EQ(view_.model, "");
  view_.Obey('a', status);
  EXPECT_EQ(view_.Workers(status).size(), 5u);
}

TEST_F(StatusTest, KeysChooseOrderPaceAndWindow) {
  const v1::GetStatusResponse status = BusyFleet();
  view_.Obey('s', status);
  EXPECT_EQ(view_.sort, 1);
  view_.Obey(kKeyLeft, status);
  view_.Obey('<', status);
  EXPECT_EQ(view_.sort, static_cast<int>(StatusColumns().size()) - 1);
  view_.Obey(kKeyRight, status);
  EXPECT_EQ(view_.sort, 0);
  view_.Obey('r', status);
  EXPECT_TRUE(view_.reversed);
  view_.Obey(' ', status);
  EXPECT_TRUE(view_.paused);
  view_.Obey('+', status);
  EXPECT_EQ(view_.interval_seconds, 2);
  for (int i = 0; i < 20; ++i) view_.Obey('+', status);
  EXPECT_EQ(view_.interval_seconds, 60);
  for (int i = 0; i < 20; ++i) view_.Obey('-', status);
  EXPECT_EQ(view_.interval_seconds, 0.2);
  view_.interval_seconds = 3;
  view_.Obey('-', status);
  EXPECT_EQ(view_.interval_seconds, 2);
  view_.Obey('w', status);
  EXPECT_EQ(view_.window_seconds, 30);
  view_.Obey('w', status);
  view_.Obey('w', status);
  EXPECT_EQ(view_.window_seconds, 10);
  EXPECT_TRUE(view_.Obey('x', status)) << "means nothing";
  EXPECT_FALSE(view_.Obey('q', status));
}

TEST_F(StatusTest, ScreensOfAllSizes) {
  v1::GetStatusResponse status = BusyFleet();
  for (int i = 0; i < 60; ++i) AddWorker(&status, "decode", absl::StrCat("worker-", i, ".fleet.example:7201"));
  for (const int width : {1, 2, 7, 20, 39, 40, 60, 80, 100, 132, 200, 400}) {
    for (const int rows : {1, 2, 3, 4, 5, 8, 12, 24, 50, 100}) {
      Screen(width, rows);
      for (const bool help : {false, true}) {
        view_.help = help;
        // Draw checks that it fits.
        EXPECT_FALSE(Draw(status).lines.empty());
        EXPECT_FALSE(Draw(v1::GetStatusResponse()).lines.empty());
      }
    }
  }
}

TEST_F(StatusTest, EightyColumnsHoldWhatMattersMost) {
  Screen(80, 24);
  const std::vector<std::string> lines = Draw(BusyFleet()).lines;
  ASSERT_EQ(lines.size(), 24u);
  EXPECT_THAT(lines, Contains(AllOf(HasSubstr("ROLE"), HasSubstr("ENDPOINT"), HasSubstr("STATE"), HasSubstr("RUN"),
                                    HasSubstr("QUEUE"), HasSubstr("TOK/S"), HasSubstr("MEMORY"), HasSubstr("BATCH"))));
  EXPECT_THAT(lines, Contains(HasSubstr("░░  50%")));
  EXPECT_THAT(lines.front(), HasSubstr("every 1 s"));
  EXPECT_THAT(lines.back(), HasSubstr("? help"));
}

TEST_F(StatusTest, TheColumnThatOneSortsByIsThere) {
  Screen(80, 24);
  view_.sort = FindStatusColumn("checkpoints");
  EXPECT_THAT(Draw(BusyFleet()).lines, Contains(HasSubstr("CHECKPOINTS▼")));
  view_.sort = FindStatusColumn("endpoint");
  EXPECT_THAT(Draw(BusyFleet()).lines, Contains(HasSubstr("ENDPOINT▲")));
}

TEST_F(StatusTest, ALowScreenKeepsWorkersAndTheFirstLine) {
  Screen(80, 6);
  const std::vector<std::string> lines = Draw(BusyFleet()).lines;
  EXPECT_THAT(lines[0], HasSubstr("gateway"));
  EXPECT_THAT(lines, Contains(HasSubstr("10.0.0.1:7101")));
}

TEST_F(StatusTest, ScrollsThroughMoreWorkersThanRows) {
  v1::GetStatusResponse status;
  for (int i = 10; i < 50; ++i) AddWorker(&status, "decode", absl::StrCat("10.0.0.", i, ":7201"));
  Screen(80, 24);
  const auto draw = [&] {
    const StatusPicture picture = Draw(status);
    view_.page = picture.page;
    view_.first = picture.first;
    return absl::StrJoin(picture.lines, "\n");
  };
  std::string text = draw();
  const int page = view_.page;
  EXPECT_GE(page, 10);
  EXPECT_THAT(text, AllOf(HasSubstr("10.0.0.10:7201"), HasSubstr(absl::StrCat("1-", page, " of 40"))));
  view_.Obey('j', status);
  EXPECT_THAT(draw(), AllOf(Not(HasSubstr("10.0.0.10:7201")), HasSubstr("10.0.0.11:7201")));
  view_.Obey(kKeyPageDown, status);
  EXPECT_EQ(view_.first, 1 + page);
  view_.Obey(kKeyEnd, status);
  text = draw();
  EXPECT_THAT(text, AllOf(HasSubstr("10.0.0.49:7201"), HasSubstr(absl::StrCat(41 - page, "-40 of 40"))));
  view_.Obey(kKeyDown, status);
  EXPECT_EQ(view_.first, 40 - page);
  // When workers go, nobody looks at emptiness.
  status.mutable_workers()->DeleteSubrange(5, 35);
  EXPECT_THAT(draw(), HasSubstr("10.0.0.10:7201"));
  EXPECT_EQ(view_.first, 0);
  view_.Obey(kKeyUp, status);
  EXPECT_EQ(view_.first, 0);
}

TEST_F(StatusTest, NoWorkers) {
  Screen(80, 24);
  EXPECT_THAT(Text({}), HasSubstr("no workers: start the gateway with --prefill-worker and --decode-worker"));
}

TEST_F(StatusTest, AnUnreachableGatewayIsSaid) {
  Screen(80, 5);
  options_.trouble = "unreachable since 12:00:00; the figures are the last ones";
  EXPECT_EQ(Draw(BusyFleet()).lines[1], options_.trouble);
}

TEST_F(StatusTest, NamesCannotTouchTheScreen) {
  v1::GetStatusResponse status;
  status.set_gateway_version("1\033[2J\n2");
  v1::WorkerStatus* const worker = AddWorker(&status, "role\x07", "host\033]0;title\x07:1\r\n\t");
  worker->set_model(
      "a\nb\xC2\x9B"
      "31m\xE2\x80\xAE\xE5\xAE\xBD");  // CSI, right to left, a wide character
  worker->set_state("\033[31m");
  worker->set_problem("line\nline\033[H");
  for (const int width : {0, 80, 200}) {
    Screen(width, width == 0 ? 0 : 24);
    const std::string text = Text(status);
    for (const char byte : text) {
      const auto value = static_cast<unsigned char>(byte);
      EXPECT_TRUE(value >= 0x20 || byte == '\n') << static_cast<int>(value);
    }
    EXPECT_THAT(text,
                AllOf(Not(HasSubstr("\xC2\x9B")), Not(HasSubstr("\xE2\x80\xAE")), Not(HasSubstr("\xE5\xAE\xBD"))));
    EXPECT_THAT(text, HasSubstr("\uFFFD"));
  }
}

TEST_F(StatusTest, NumbersCannotBreakIt) {
  v1::GetStatusResponse status = BusyFleet();
  constexpr int64_t kSmallest = std::numeric_limits<int64_t>::min();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  status.set_uptime_seconds(kNan);
  status.set_running_requests(kSmallest);
  status.mutable_recent()->set_seconds(kNan);
  status.mutable_recent()->set_completed(kSmallest);
  status.mutable_recent()->set_output_tokens(std::numeric_limits<int64_t>::max());
  for (v1::WorkerStatus& worker : *status.mutable_workers()) {
    worker.set_running(kSmallest);
    worker.set_tokens_per_second(kNan);
    worker.set_steps_per_second(kInfinite);
    worker.set_state_bytes_used(kSmallest);
    worker.set_kept_sessions(5);
    worker.set_kept_session_bytes(kSmallest);
    worker.set_cached_prompt_share(kNan);
    worker.set_silent_seconds(kInfinite);
    worker.set_pause_seconds(kInfinite);
    worker.set_uptime_seconds(-1);
  }
  for (const StatusColumn& column : StatusColumns()) {
    EXPECT_EQ(Order(column.name, false, status).size(), 4u);
    Screen(200, 50);
    EXPECT_THAT(Text(status), HasSubstr("10.0.0.2:7201"));
  }
}

}  // namespace
}  // namespace baton::cli
