#include "gateway/admission_queue.h"

#include <future>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/rpc/status_mapping.h"
#include "tests/gateway/fleet_snapshots.h"

namespace baton {
namespace {

using ::testing::ElementsAre;

constexpr std::chrono::seconds kPatience{60};

class AdmissionQueueTest : public ::testing::Test {
 protected:
  void SetUp() override { router_.OnWorker(PrefillSnapshot("p:1", 0)); }
  void TearDown() override { timers_.Stop(); }

  void Make(int max_running, int max_queue, Clock::duration timeout = std::chrono::hours(1),
            AdmissionOptions options = {}) {
    options.max_running = max_running;
    options.max_queue = max_queue;
    options.queue_timeout = timeout;
    queue_ = std::make_unique<AdmissionQueue>(options, &router_, &timers_);
    router_.SetCapacityListener([this] { queue_->Wake(); });
  }

  // One request of `state_tokens` of decode state (0: none) and what becomes of it.
  struct Request {
    std::shared_ptr<AdmissionTicket> ticket;
    // Shared with the ticket: the queue may still decide when the test is over.
    std::shared_ptr<std::promise<absl::StatusOr<Route>>> promise =
        std::make_shared<std::promise<absl::StatusOr<Route>>>();
    std::future<absl::StatusOr<Route>> later = promise->get_future();

    bool WaitedFor() { return later.wait_for(kPatience) == std::future_status::ready; }
    bool Decided() { return later.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
  };
  std::unique_ptr<Request> MakeRequest(int priority = 0, int64_t state_tokens = 0, char mark = 'f',
                                       int64_t prompt_tokens = 10) {
    auto request = std::make_unique<Request>();
    AdmissionRequest asked;
    asked.demand.fingerprint = std::string(32, mark);
    asked.demand.model = "tiny";
    asked.demand.prompt_tokens = prompt_tokens;
    asked.demand.state_tokens = state_tokens;
    asked.priority = priority;
    asked.client = client_;
    asked.deadline = deadline_;
    request->ticket = std::make_shared<AdmissionTicket>(
        asked, model_metrics_,
        [promise = request->promise](absl::StatusOr<Route> route) { promise->set_value(std::move(route)); });
    return request;
  }
  // Enters and has to run at once.
  Route Run(const Request& request) {
    auto route = queue_->Enter(request.ticket);
    EXPECT_TRUE(route.ok()) << route.status();
    if (!route.ok() || !route->has_value()) {
      ADD_FAILURE() << "did not run at once";
      return Route();
    }
    return std::move(**route);
  }
  // Enters and has to wait.
  void Wait(const Request& request) {
    auto route = queue_->Enter(request.ticket);
    ASSERT_TRUE(route.ok()) << route.status();
    EXPECT_FALSE(route->has_value());
  }
  // With one slot: serves the requests, each to its end, and says in which order.
  std::vector<size_t> ServeAll(std::vector<std::unique_ptr<Request>>& waiting) {
    std::vector<size_t> order;
    for (size_t turn = 0; turn < waiting.size(); ++turn) {
      Settle();
      for (size_t i = 0; i < waiting.size(); ++i) {
        if (!waiting[i] || !waiting[i]->Decided()) continue;
        order.push_back(i);
        queue_->Leave(waiting[i]->ticket);
        waiting[i].reset();
        break;
      }
    }
    return order;
  }
  // After everything posted before has run.
  void Settle() {
    std::promise<void> done;
    timers_.Post([&] { done.set_value(); });
    done.get_future().wait();
  }

  // Of the requests that are made next.
  std::string client_;
  std::chrono::system_clock::time_point deadline_ = std::chrono::system_clock::time_point::max();

  Metrics metrics_{"gateway"};
  GatewayMetrics gateway_metrics_{&metrics_};
  ModelMetrics* model_metrics_ = gateway_metrics_.ForModel("tiny");
  Timers timers_;
  Router router_;
  std::unique_ptr<AdmissionQueue> queue_;
};

TEST_F(AdmissionQueueTest, RunsThenQueuesThenRefuses) {
  Make(/*max_running=*/1, /*max_queue=*/1);
  auto first = MakeRequest();
  auto second = MakeRequest();
  auto third = MakeRequest();
  const Route route = Run(*first);
  EXPECT_TRUE(route.prefill);
  Wait(*second);
  const auto refused = queue_->Enter(third->ticket);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_EQ(ErrorReason(refused.status()), "QUEUE_FULL");
  EXPECT_GT(RetryDelay(refused.status()), absl::ZeroDuration());
  EXPECT_EQ(queue_->running(), 1);
  EXPECT_EQ(queue_->waiting(), 1);
  EXPECT_EQ(model_metrics_->running.Value(), 1);
  EXPECT_EQ(model_metrics_->waiting.Value(), 1);

  queue_->Leave(first->ticket);
  ASSERT_TRUE(second->WaitedFor());
  EXPECT_TRUE(second->later.get().ok());
  EXPECT_EQ(queue_->running(), 1);
  queue_->Leave(second->ticket);
  queue_->Leave(second->ticket);
  EXPECT_EQ(queue_->running(), 0);
  EXPECT_EQ(model_metrics_->running.Value(), 0);
  EXPECT_EQ(model_metrics_->waiting.Value(), 0);
}

TEST_F(AdmissionQueueTest, PriorityThenArrival) {
  Make(1, 10);
  auto running = MakeRequest();
  Run(*running);
  std::vector<std::unique_ptr<Request>> waiting;
  for (int priority : {0, 5, -5, 5}) {
    waiting.push_back(MakeRequest(priority));
    Wait(*waiting.back());
  }
  queue_->Leave(running->ticket);
  EXPECT_THAT(ServeAll(waiting), ElementsAre(1, 3, 0, 2));
}

TEST_F(AdmissionQueueTest, ClientsTakeTurns) {
  Make(1, 10);
  auto running = MakeRequest();
  Run(*running);
  std::vector<std::unique_ptr<Request>> waiting;
  for (const char* const client : {"greedy", "greedy", "greedy", "modest"}) {
    client_ = client;
    waiting.push_back(MakeRequest());
    Wait(*waiting.back());
  }
  queue_->Leave(running->ticket);
  EXPECT_THAT(ServeAll(waiting), ElementsAre(0, 3, 1, 2));
}

TEST_F(AdmissionQueueTest, TheQueueIsBoundedInTokens) {
  AdmissionOptions options;
  options.max_queue_tokens = 100;
  Make(1, 10, std::chrono::hours(1), options);
  auto running = MakeRequest();
  Run(*running);
  // Larger than the bound: it may wait as long as nobody else does.
  auto large = MakeRequest(0, 0, 'f', 500);
  Wait(*large);
  auto small = MakeRequest(0, 0, 'f', 1);
  EXPECT_EQ(ErrorReason(queue_->Enter(small->ticket).status()), "QUEUE_FULL");
  queue_->Leave(large->ticket);
  auto first = MakeRequest(0, 0, 'f', 60);
  auto second = MakeRequest(0, 0, 'f', 40);
  auto third = MakeRequest(0, 0, 'f', 1);
  Wait(*first);
  Wait(*second);
  EXPECT_EQ(ErrorReason(queue_->Enter(third->ticket).status()), "QUEUE_FULL");
}

TEST_F(AdmissionQueueTest, ADeadlineThatCannotBeMetIsRefusedAtOnce) {
  Make(1, 100);
  auto running = MakeRequest();
  Run(*running);
  // Nothing is known of the pace yet: it may wait, however little time it has.
  deadline_ = std::chrono::system_clock::now() + std::chrono::milliseconds(1);
  auto hasty = MakeRequest();
  Wait(*hasty);
  // A queue of a million tokens, of which ten were served in about a second.
  deadline_ = std::chrono::system_clock::time_point::max();
  auto large = MakeRequest(0, 0, 'f', 1000000);
  Wait(*large);
  // What the pace is measured over.
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  queue_->Leave(running->ticket);
  ASSERT_TRUE(hasty->WaitedFor());
  deadline_ = std::chrono::system_clock::now() + std::chrono::seconds(10);
  auto late = MakeRequest();
  const absl::Status status = queue_->Enter(late->ticket).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), "DEADLINE_TOO_NEAR");
  EXPECT_EQ(RetryDelay(status), absl::Seconds(60));
  // Another client's share is not behind that queue.
  client_ = "other";
  auto other = MakeRequest();
  Wait(*other);
}

TEST_F(AdmissionQueueTest, LeavingTheQueueFreesItsPlace) {
  Make(1, 1);
  auto running = MakeRequest();
  auto waiting = MakeRequest();
  auto other = MakeRequest();
  Run(*running);
  Wait(*waiting);
  queue_->Leave(waiting->ticket);
  EXPECT_EQ(queue_->waiting(), 0);
  Wait(*other);
  queue_->Leave(running->ticket);
  ASSERT_TRUE(other->WaitedFor());
  EXPECT_FALSE(waiting->Decided());
}

TEST_F(AdmissionQueueTest, WaitingTimesOut) {
  Make(1, 10, std::chrono::milliseconds(1));
  auto running = MakeRequest();
  auto waiting = MakeRequest();
  Run(*running);
  Wait(*waiting);
  ASSERT_TRUE(waiting->WaitedFor());
  const absl::Status status = waiting->later.get().status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), "QUEUE_TIMEOUT");
  EXPECT_EQ(queue_->waiting(), 0);
}

TEST_F(AdmissionQueueTest, WhoWaitedInVainOwesNothing) {
  Make(1, 10);
  auto running = MakeRequest();
  Run(*running);
  client_ = "patient";
  auto given_up = MakeRequest(0, 0, 'f', 5000);
  Wait(*given_up);
  queue_->Leave(given_up->ticket);
  std::vector<std::unique_ptr<Request>> waiting;
  for (const char* const client : {"patient", "other"}) {
    client_ = client;
    waiting.push_back(MakeRequest());
    Wait(*waiting.back());
  }
  queue_->Leave(running->ticket);
  EXPECT_THAT(ServeAll(waiting), ElementsAre(0, 1));
}

TEST_F(AdmissionQueueTest, AFullModelDoesNotHoldUpOthers) {
  Make(10, 10);
  // 5000 bytes: one sequence of 300 tokens (4000 bytes), or several small ones.
  router_.OnWorker(DecodeSnapshot("d:1", 0, 5000));
  router_.OnWorker(PrefillSnapshot("p:2", 0, 'g'));
  router_.OnWorker(DecodeSnapshot("d:2", 0, 5000, 'g'));
  auto first = MakeRequest(0, 300);
  std::optional<Route> route = Run(*first);
  auto large = MakeRequest(0, 300);
  auto small = MakeRequest(0, 1);
  auto other_model = MakeRequest(0, 300, 'g');
  auto no_state = MakeRequest();
  Wait(*large);
  // It would fit, but must not pass one that came before it and waits for the same workers.
  Wait(*small);
  Run(*other_model);
  Run(*no_state);

  route.reset();
  ASSERT_TRUE(large->WaitedFor());
  EXPECT_TRUE(large->later.get().ok());
}

TEST_F(AdmissionQueueTest, ALargerPriorityPassesThoseThatWait) {
  Make(10, 10);
  router_.OnWorker(DecodeSnapshot("d:1", 0, 6000));
  auto first = MakeRequest(0, 300);
  const Route route = Run(*first);
  auto large = MakeRequest(0, 300);
  Wait(*large);
  // Into the room that is left: it comes before the large one.
  auto urgent = MakeRequest(5, 10);
  Wait(*urgent);
  ASSERT_TRUE(urgent->WaitedFor());
  EXPECT_TRUE(urgent->later.get().ok());
  EXPECT_FALSE(large->Decided());
}

TEST_F(AdmissionQueueTest, RequeuedRequestsKeepTheirPlace) {
  Make(10, 10);
  router_.OnWorker(DecodeSnapshot("d:1", 0, 100000));
  auto first = MakeRequest(0, 100);
  {
    Route route = Run(*first);
    // The worker says that it is full after all.
    route.decode.ReportRefused();
  }
  auto second = MakeRequest(0, 100);
  Wait(*second);
  queue_->Requeue(first->ticket);
  Settle();
  EXPECT_EQ(queue_->waiting(), 2);
  EXPECT_EQ(queue_->running(), 0);
  // Room for one: the one that came first gets it.
  router_.OnWorker(DecodeSnapshot("d:1", 97000, 100000, 'f', 2));
  ASSERT_TRUE(first->WaitedFor());
  EXPECT_FALSE(second->Decided());
}

TEST_F(AdmissionQueueTest, ARouterRefusalEndsTheWait) {
  Make(10, 10);
  router_.OnWorker(DecodeSnapshot("d:1", 5000, 5000));
  auto waiting = MakeRequest(0, 100);
  Wait(*waiting);
  router_.OnWorkerRemoved("d:1", Stage::kDecode);
  ASSERT_TRUE(waiting->WaitedFor());
  const absl::Status status = waiting->later.get().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(queue_->running(), 0);
  EXPECT_EQ(queue_->waiting(), 0);
}

// --- Requests that have run and lost their workers.

TEST_F(AdmissionQueueTest, ResumingNeedsNoSlotAndKeepsItsAvoidance) {
  Make(1, 0);
  router_.OnWorker(PrefillSnapshot("p:2", 1000));
  auto running = MakeRequest();
  const Route first = Run(*running);
  EXPECT_EQ(first.prefill.endpoint(), "p:1");
  auto resumed = MakeRequest();
  const auto route = queue_->Resume(resumed->ticket, {"p:1"}, Clock::now() + kPatience);
  ASSERT_TRUE(route.ok() && route->has_value());
  EXPECT_EQ((*route)->prefill.endpoint(), "p:2");
  EXPECT_EQ(queue_->running(), 1);
  queue_->Leave(resumed->ticket);
  EXPECT_EQ(queue_->running(), 1);
  queue_->Leave(running->ticket);
  EXPECT_EQ(queue_->running(), 0);
}

TEST_F(AdmissionQueueTest, ResumingWaitsForAGoodWorkerAndTakesAnyInTheEnd) {
  router_.SetPrefillBacklog(std::chrono::seconds(2));
  const auto report = [&](int64_t queued, uint64_t number) {
    WorkerSnapshot snapshot = PrefillSnapshot("p:2", queued, 'f', number);
    snapshot.load.set_tokens_per_second(1000);
    router_.OnWorker(snapshot);
  };
  report(100000, 1);
  Make(1, 0);
  auto patient = MakeRequest();
  auto hasty = MakeRequest();
  auto late = MakeRequest();
  ASSERT_FALSE(queue_->Resume(patient->ticket, {"p:1"}, Clock::now() + kPatience)->has_value());
  ASSERT_FALSE(queue_->Resume(hasty->ticket, {"p:1"}, Clock::now() + std::chrono::milliseconds(20))->has_value());
  ASSERT_TRUE(hasty->WaitedFor());
  EXPECT_EQ(hasty->later.get()->prefill.endpoint(), "p:1");
  EXPECT_EQ((**queue_->Resume(late->ticket, {"p:1"}, Clock::now())).prefill.endpoint(), "p:1");
  EXPECT_FALSE(patient->Decided());
  report(0, 2);
  ASSERT_TRUE(patient->WaitedFor());
  EXPECT_EQ(patient->later.get()->prefill.endpoint(), "p:2");
}

TEST_F(AdmissionQueueTest, ResumedOnesGoBeforeThoseThatHaveNotRun) {
  Make(8, 8);
  router_.OnWorker(DecodeSnapshot("d:1", 10000, 10000));
  auto urgent = MakeRequest(100, 20);
  auto resumed = MakeRequest(-100, 20);
  ASSERT_FALSE(queue_->Enter(urgent->ticket)->has_value());
  ASSERT_FALSE(queue_->Resume(resumed->ticket, {}, Clock::now() + kPatience)->has_value());
  // Room for one of them.
  router_.OnWorker(DecodeSnapshot("d:1", 10000 - 1500, 10000, 'f', 2));
  ASSERT_TRUE(resumed->WaitedFor());
  // Held: else the other one had room too.
  const absl::StatusOr<Route> route = resumed->later.get();
  EXPECT_TRUE(route.ok()) << route.status();
  EXPECT_FALSE(urgent->Decided());
  queue_->Leave(urgent->ticket);
}

TEST_F(AdmissionQueueTest, ResumingWaitsForWorkersToComeUpToItsDeadline) {
  Make(8, 8);
  auto patient = MakeRequest(0, 20);
  auto hasty = MakeRequest(0, 20);
  ASSERT_FALSE(queue_->Resume(patient->ticket, {}, Clock::now() + kPatience)->has_value());
  ASSERT_FALSE(queue_->Resume(hasty->ticket, {}, Clock::now() + std::chrono::milliseconds(20))->has_value());
  ASSERT_TRUE(hasty->WaitedFor());
  const absl::Status status = hasty->later.get().status();
  EXPECT_EQ(ErrorReason(status), "NO_WORKERS") << status;
  EXPECT_FALSE(patient->Decided());
  router_.OnWorker(DecodeSnapshot("d:1", 0, 10000));
  ASSERT_TRUE(patient->WaitedFor());
  EXPECT_TRUE(patient->later.get().ok());
  EXPECT_EQ(queue_->waiting(), 0);
}

}  // namespace
}  // namespace baton
