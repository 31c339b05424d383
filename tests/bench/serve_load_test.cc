// A load run against a gateway of the test's own, which answers as it is told.
#include "bench/serve_load.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/serve_report.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

constexpr double kUnbounded = std::numeric_limits<double>::infinity();

class FakeGateway final : public v1::Inference::Service {
 public:
  grpc::Status GenerateStream(grpc::ServerContext* context, const v1::GenerateRequest* request,
                              grpc::ServerWriter<v1::GenerateEvent>* writer) override {
    {
      absl::MutexLock lock(&mutex_);
      requests_.push_back(*request);
      ++running_;
      most_running_ = std::max(most_running_, running_);
    }
    const grpc::Status status = Answer(context, *request, writer);
    absl::MutexLock lock(&mutex_);
    --running_;
    return status;
  }

  // Answers that come later wait for this.
  void Release() {
    absl::MutexLock lock(&mutex_);
    released_ = true;
  }
  void WaitForRequests(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return requests_.size() >= count; };
    mutex_.Await(absl::Condition(&enough));
  }
  std::vector<v1::GenerateRequest> requests() const {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }
  int most_running() const {
    absl::MutexLock lock(&mutex_);
    return most_running_;
  }

  bool hold = false;
  bool refuse_odd = false;
  bool omit_finished = false;
  int tokens_short = 0;

 private:
  grpc::Status Answer(grpc::ServerContext* context, const v1::GenerateRequest& request,
                      grpc::ServerWriter<v1::GenerateEvent>* writer) {
    if (refuse_odd && request.sampling().seed() % 2 == 1) {
      return ToGrpcStatus(WithRetryAfter(absl::ResourceExhaustedError("too many"), absl::Seconds(1), "QUEUE_FULL"));
    }
    v1::GenerateEvent event;
    event.mutable_started()->set_request_id(request.request_id());
    writer->Write(event);
    while (hold && !context->IsCancelled()) {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&released_), absl::Milliseconds(20))) break;
    }
    const int tokens = request.stopping().max_new_tokens() - tokens_short;
    for (int i = 0; i < tokens; ++i) {
      event.mutable_delta()->Clear();
      event.mutable_delta()->add_token_ids(i);
      writer->Write(event);
    }
    if (!omit_finished) {
      event.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
      writer->Write(event);
    }
    return grpc::Status::OK;
  }

  mutable absl::Mutex mutex_;
  std::vector<v1::GenerateRequest> requests_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int most_running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
};

class ServeLoadTest : public ::testing::Test {
 protected:
  ServeLoadTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&gateway_);
    server_ = builder.BuildAndStart();
    run_.load.gateway = "127.0.0.1:" + std::to_string(port);
    run_.load.model = "m";
    run_.load.timeout = 60;
    WorkloadOptions& workload = run_.load.workload;
    workload.seed = 10;
    workload.rate = 2000;
    workload.requests = 20;
    workload.prompt_tokens = LengthDistribution::Parse("uniform:1:9").value();
    workload.output_tokens = LengthDistribution::Parse("fixed:5").value();
    workload.max_tokens = 100;
    workload.vocab_size = 500;
    run_.bounds = {kUnbounded, kUnbounded};
  }
  ~ServeLoadTest() override { server_->Shutdown(); }

  // `beside` runs while the load does.
  ServeReport Run(const std::function<void(ServeLoad&)>& beside = nullptr) {
    run_.workload = MakeWorkload(run_.load.workload).value();
    ServeResults results(run_.workload);
    ServeLoad load(run_.load, run_.workload, &results);
    std::thread thread([&] {
      if (beside) beside(load);
    });
    load.Run([](const ServeLoad::Progress&) {});
    thread.join();
    run_.end = load.progress();
    run_.interrupted = load.interrupted();
    return results.Report(load.Now(), run_.interrupted, run_.bounds);
  }

  FakeGateway gateway_;
  std::unique_ptr<grpc::Server> server_;
  ServeRun run_;
};

TEST_F(ServeLoadTest, AsksForWhatTheWorkloadSays) {
  const ServeReport report = Run();
  EXPECT_EQ(report.arrived, 20);
  EXPECT_EQ(report.completed, 20);
  EXPECT_EQ(report.failed, 0);
  EXPECT_EQ(report.output_tokens, 100);
  EXPECT_EQ(report.short_outputs, 0);
  EXPECT_EQ(report.time_to_first_token.count, 20);
  EXPECT_EQ(report.end_to_end.count, 20);
  EXPECT_EQ(report.inter_token.count, 20 * 4);
  EXPECT_EQ(report.time_per_output_token.count, 20);
  EXPECT_LE(report.time_to_first_token.max, report.end_to_end.max);
  const std::vector<v1::GenerateRequest> requests = gateway_.requests();
  ASSERT_EQ(requests.size(), 20u);
  for (const v1::GenerateRequest& request : requests) {
    EXPECT_EQ(request.model(), "m");
    EXPECT_TRUE(request.stopping().ignore_eos());
    EXPECT_EQ(request.stopping().max_new_tokens(), 5);
    const auto index = static_cast<size_t>(request.sampling().seed() - 10);
    ASSERT_LT(index, run_.workload.items.size());
    const std::vector<int32_t> ids = MakePrompt(run_.load.workload, run_.workload.items[index]);
    EXPECT_THAT(request.tokens().ids(), ::testing::ElementsAreArray(ids));
  }
}

TEST_F(ServeLoadTest, ErrorsAreCountedByCodeAndReason) {
  gateway_.refuse_odd = true;
  const ServeReport report = Run();
  EXPECT_EQ(report.completed, 10);
  EXPECT_EQ(report.failed, 10);
  ASSERT_EQ(report.errors.count("RESOURCE_EXHAUSTED QUEUE_FULL"), 1u);
  EXPECT_EQ(report.errors.at("RESOURCE_EXHAUSTED QUEUE_FULL").count, 10);
  EXPECT_EQ(report.errors.at("RESOURCE_EXHAUSTED QUEUE_FULL").example, "too many");
  EXPECT_EQ(report.end_to_end.count, 10);
}

TEST_F(ServeLoadTest, AStreamWithoutAnEndIsAnError) {
  gateway_.omit_finished = true;
  EXPECT_EQ(Run().failed, 20);
}

TEST_F(ServeLoadTest, ShortOutputsAreNoticed) {
  gateway_.tokens_short = 2;
  const ServeReport report = Run();
  EXPECT_EQ(report.completed, 20);
  EXPECT_EQ(report.short_outputs, 20);
  EXPECT_THAT(ReportText(run_, report), HasSubstr("20 outputs are shorter"));
}

TEST_F(ServeLoadTest, WhatIsHeldBackKeepsItsClock) {
  run_.load.concurrency = 2;
  run_.load.connections = 1;
  gateway_.hold = true;
  const ServeReport report = Run([&](ServeLoad& load) {
    gateway_.WaitForRequests(2);
    while (load.Now() < run_.workload.items.back().arrival) std::this_thread::yield();
    gateway_.Release();
  });
  EXPECT_LE(gateway_.most_running(), 2);
  EXPECT_EQ(report.completed, 20);
  EXPECT_GT(run_.end.held_back, 0);
  // All waited at least for the last one to arrive: the third for as long as the others took to come.
  const WorkItem& third = run_.workload.items[2];
  EXPECT_GE(report.time_to_first_token.max, run_.workload.items.back().arrival - third.arrival);
  EXPECT_GE(report.send_delay.max, run_.workload.items.back().arrival - third.arrival);
  EXPECT_THAT(ReportText(run_, report), HasSubstr("--concurrency"));
}

TEST_F(ServeLoadTest, NothingWaitsBeyondItsTimeout) {
  run_.load.concurrency = 1;
  run_.load.timeout = 0.2;
  gateway_.hold = true;
  const ServeReport report = Run();
  EXPECT_EQ(report.completed, 0);
  EXPECT_EQ(report.failed, 20);
  EXPECT_GE(report.errors.at("DEADLINE_EXCEEDED").count, 1);
  int64_t counted = 0;
  for (const auto& [name, error] : report.errors) counted += error.count;
  EXPECT_EQ(counted, 20);
}

TEST_F(ServeLoadTest, AnInterruptedRunTellsWhatItKnows) {
  gateway_.hold = true;
  const ServeReport report = Run([&](ServeLoad& load) {
    gateway_.WaitForRequests(7);
    load.Interrupt();
  });
  EXPECT_TRUE(run_.interrupted);
  EXPECT_GE(report.unfinished, 7);
  EXPECT_EQ(report.failed, 0);
  EXPECT_EQ(report.unfinished, report.arrived);
  EXPECT_THAT(ReportText(run_, report), HasSubstr("Interrupted"));
}

TEST_F(ServeLoadTest, NobodyThere) {
  server_->Shutdown();
  const ServeReport report = Run();
  EXPECT_EQ(report.failed, 20);
  EXPECT_EQ(report.errors.at("UNAVAILABLE").count, 20);
  const nlohmann::json json = nlohmann::json::parse(ReportJson(run_, report));
  EXPECT_TRUE(json["seconds"]["time_to_first_token"]["p50"].is_null());
  EXPECT_EQ(json["errors"][0]["count"], 20);
}

TEST_F(ServeLoadTest, JsonIsWhole) {
  run_.bounds = {60, kUnbounded};
  const ServeReport report = Run();
  const nlohmann::json json = nlohmann::json::parse(ReportJson(run_, report));
  EXPECT_EQ(json["requests"]["completed"], 20);
  EXPECT_EQ(json["goodput"]["good"], 20);
  EXPECT_EQ(json["config"]["slo_ttft_seconds"], 60);
  EXPECT_TRUE(json["config"]["slo_itl_seconds"].is_null());
  EXPECT_EQ(json["seconds"]["inter_token"]["count"], 80);
}

// --- ServeResults alone ---------------------------------------------------------------------------------------------

Workload Window(double begin, double end) {
  Workload workload;
  workload.measure_begin = begin;
  workload.measure_end = end;
  return workload;
}

RequestOutcome Completed(double arrival, double first, double last, int64_t tokens, bool measured = true) {
  RequestOutcome outcome;
  outcome.item.arrival = arrival;
  outcome.item.measured = measured;
  outcome.item.output_tokens = tokens;
  outcome.sent = true;
  outcome.sent_at = arrival;
  outcome.first_token_at = first;
  outcome.last_token_at = last;
  outcome.ended_at = last;
  outcome.tokens = tokens;
  return outcome;
}

TEST(ServeResultsTest, GoodputNeedsBothBounds) {
  ServeResults results(Window(0, 10));
  results.Add(Completed(0, 0.5, 1.5, 11));   // good: 0.5 s, 0.1 s a token
  results.Add(Completed(0, 2.0, 3.0, 11));   // late first token
  results.Add(Completed(0, 0.5, 10.5, 11));  // 1 s a token
  results.Add(Completed(1, 1.1, 1.1, 1));    // good: one token has no gaps
  const ServeReport report = results.Report(20, false, {1.0, 0.2});
  EXPECT_EQ(report.good, 2);
  EXPECT_DOUBLE_EQ(report.goodput, 0.2);
  EXPECT_EQ(report.completed, 4);
}

TEST(ServeResultsTest, RatesCountTheWindowAlone) {
  ServeResults results(Window(10, 20));
  results.Add(Completed(9, 9.5, 11, 4, /*measured=*/false));  // ends within
  results.Add(Completed(12, 13, 14, 4));
  results.Add(Completed(19, 21, 22, 4));  // ends after it
  results.AddTokens(9.9, 100);
  results.AddTokens(15, 30);
  results.AddTokens(20.1, 100);
  const ServeReport report = results.Report(25, false, {kUnbounded, kUnbounded});
  EXPECT_EQ(report.arrived, 2);
  EXPECT_DOUBLE_EQ(report.arrival_window, 10);
  EXPECT_DOUBLE_EQ(report.answer_window, 10);
  EXPECT_DOUBLE_EQ(report.offered_rate, 0.2);
  EXPECT_DOUBLE_EQ(report.completed_rate, 0.2);
  EXPECT_DOUBLE_EQ(report.output_tokens_rate, 3);
  EXPECT_EQ(report.end_to_end.count, 2);
  EXPECT_DOUBLE_EQ(report.end_to_end.max, 3);
}

TEST(ServeResultsTest, OnlyAnInterruptionShortensTheWindow) {
  const ServiceBounds none = {kUnbounded, kUnbounded};
  ServeResults results(Window(10, 20));
  EXPECT_DOUBLE_EQ(results.Report(15, /*interrupted=*/true, none).arrival_window, 5);
  EXPECT_DOUBLE_EQ(results.Report(15, /*interrupted=*/true, none).answer_window, 5);
  EXPECT_DOUBLE_EQ(results.Report(5, /*interrupted=*/true, none).arrival_window, 0);
  EXPECT_DOUBLE_EQ(results.Report(15, /*interrupted=*/false, none).arrival_window, 10);
}

TEST(ServeResultsTest, ANumberOfRequestsIsMeasuredToTheLastAnswer) {
  Workload workload = Window(10, 20);
  workload.by_count = true;
  ServeResults results(workload);
  results.Add(Completed(12, 13, 14, 4));
  results.Add(Completed(20, 25, 30, 4));
  results.AddTokens(29, 60);
  const ServeReport report = results.Report(30, false, {kUnbounded, kUnbounded});
  EXPECT_DOUBLE_EQ(report.offered_rate, 0.2);
  EXPECT_DOUBLE_EQ(report.completed_rate, 0.1);
  EXPECT_DOUBLE_EQ(report.output_tokens_rate, 3);
}

}  // namespace
}  // namespace baton
