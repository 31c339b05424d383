// Two workers of each role and a gateway that hedges soon: who of them is asked is the gateway's business, so calls
// come with their workers, in the order in which they arrive.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/gateway/gateway_fixture.h"
#include "tests/metric_sum.h"

namespace baton {

// A worker, and what it was asked.
template <typename Worker>
struct Asked {
  Worker* worker = nullptr;
  std::shared_ptr<typename Worker::Call> call;
};

template <typename Worker>
class Arrivals {
 public:
  void Watch(Worker* worker) {
    worker->SetScript([this, worker](const std::shared_ptr<typename Worker::Call>& call) {
      std::lock_guard<std::mutex> lock(mutex_);
      waiting_.push_back({worker, call});
      arrived_.notify_all();
    });
  }
  // The next call; null when none comes.
  Asked<Worker> Take() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!arrived_.wait_for(lock, kPatience, [this] { return !waiting_.empty(); })) {
      ADD_FAILURE() << "no call came";
      return {};
    }
    Asked<Worker> next = std::move(waiting_.front());
    waiting_.pop_front();
    return next;
  }
  size_t untaken() {
    std::lock_guard<std::mutex> lock(mutex_);
    return waiting_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Asked<Worker>> waiting_;
};

class HedgeTest : public GatewayTest {
 protected:
  using Decode = Asked<FakeDecode>;
  using Prefill = Asked<FakePrefill>;
  // An attempt whose prefill worker has been asked.
  struct Pair {
    Decode decode;
    Prefill prefill;
  };

  void SetUp() override {
    options_.hedge.after = std::chrono::milliseconds(20);
    options_.hedge.budget_percent = 100;
    options_.local_prefill_tokens = 0;
    options_.breaker.failures = 0;
    Configure();
    for (FakePrefill* worker : prefill_workers_) {
      AddWorker(*worker);
      prefill_.Watch(worker);
    }
    for (FakeDecode* worker : decode_workers_) {
      AddWorker(*worker);
      decode_.Watch(worker);
    }
    StartGatewayWith(static_cast<int>(prefill_workers_.size() + decode_workers_.size()));
    // Before a prompt has been computed none is late.
    auto client = Stream(SimpleRequest(1));
    const Prefill prefill = prefill_.Take();
    prefill.call->Push(FirstAndLast(200, worker::v1::LENGTH));
    prefill.call->Push(PrefillDone());
    prefill.call->Finish();
    ASSERT_TRUE(client->Finish().ok());
  }
  virtual void Configure() {}

  Decode Reserving() {
    Decode decode = decode_.Take();
    if (decode.call != nullptr) decode.call->Push(Reserve(*decode.worker, ++reservations_));
    return decode;
  }
  Pair Computing() {
    Pair pair;
    pair.decode = Reserving();
    pair.prefill = prefill_.Take();
    return pair;
  }
  // A worker that has let a request wait is heard of again.
  void Report() {
    ++reports_;
    for (FakePrefill* worker : prefill_workers_) worker->load().SetQueued(reports_);
    for (FakeDecode* worker : decode_workers_) worker->load().SetQueued(reports_);
  }
  // Three tokens.
  void Complete(const Pair& pair) {
    Report();
    pair.prefill.call->Push(First(200));
    pair.prefill.call->Push(PrefillDone());
    pair.prefill.call->Finish();
    CompleteDecode(pair.decode);
  }
  // What follows the first one.
  static void CompleteDecode(const Decode& decode) {
    decode.call->Push(Tokens(5, {201, 202}));
    decode.call->Push(DecodeDone(worker::v1::LENGTH));
    decode.call->Finish();
  }
  static void ExpectCompletes(ClientStream& client) {
    const absl::Status status = client.Finish();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(client.ids, (std::vector<int32_t>{200, 201, 202}));
    ASSERT_TRUE(client.finished.has_value());
    EXPECT_EQ(client.finished->usage().completion_tokens(), 3);
    EXPECT_EQ(client.finished->usage().prompt_tokens(), kPromptTokens);
  }
  static void ExpectCancelled(const Pair& pair) {
    EXPECT_TRUE(pair.decode.call->WaitUntilOver());
    EXPECT_TRUE(pair.decode.call->cancelled());
    EXPECT_TRUE(pair.prefill.call->WaitUntilOver());
    EXPECT_TRUE(pair.prefill.call->cancelled());
  }
  // There is no other worker for it, so that the first attempt completes.
  void ExpectNoWorkersForHedge(ClientStream& client) {
    const Pair only = Computing();
    EXPECT_TRUE(Eventually([&] { return Withheld("workers") == 1; }));
    Complete(only);
    ExpectCompletes(client);
    EXPECT_EQ(Count("baton_hedges_total"), 0);
    ExpectIdle();
  }
  // Nothing runs, and no worker has been asked for more.
  void ExpectIdle() {
    EXPECT_TRUE(Eventually([&] { return Status().running_requests() == 0 && gateway_->calls() == 0; }));
    EXPECT_EQ(decode_.untaken(), 0u);
    EXPECT_EQ(prefill_.untaken(), 0u);
  }

  // Of the series of this name, with this label; 0 when there is none.
  double Count(const std::string& name, const std::string& label = "", const std::string& value = "") const {
    return MetricSum(gateway_->metrics(), name, label, value);
  }
  double Hedges(const std::string& result) const { return Count("baton_hedges_total", "result", result); }
  double Withheld(const std::string& reason) const { return Count("baton_hedges_withheld_total", "reason", reason); }

  FakePrefill prefill_a_, prefill_b_;
  FakeDecode decode_a_, decode_b_;
  std::vector<FakePrefill*> prefill_workers_ = {&prefill_a_, &prefill_b_};
  std::vector<FakeDecode*> decode_workers_ = {&decode_a_, &decode_b_};
  Arrivals<FakePrefill> prefill_;
  Arrivals<FakeDecode> decode_;
  uint64_t reservations_ = 0;
  int64_t reports_ = 0;
};

}  // namespace baton
