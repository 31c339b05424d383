#include "gateway/model_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include "common/rpc/status_mapping.h"
#include "tests/gateway/fleet_snapshots.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

WorkerSnapshot Named(WorkerSnapshot snapshot, const std::string& model, int64_t max_tokens = 512) {
  auto info = std::make_shared<worker::v1::WorkerInfo>(*snapshot.info);
  info->set_model_name(model);
  info->set_max_tokens(max_tokens);
  snapshot.info = info;
  return snapshot;
}

class ModelCatalogTest : public ::testing::Test {
 protected:
  std::string Scrape() { return prometheus::TextSerializer().Serialize(metrics_.registry()->Collect()); }
  Metrics metrics_{"gateway"};
  GatewayMetrics gateway_metrics_{&metrics_};
  ModelCatalog catalog_{&gateway_metrics_};
};

TEST_F(ModelCatalogTest, FindsByNameOrTheOnlyOne) {
  EXPECT_TRUE(absl::IsUnavailable(catalog_.Find("tiny").status()));
  catalog_.OnWorker(PrefillSnapshot("p:1", 0));
  EXPECT_EQ((*catalog_.Find(""))->name, "tiny");
  EXPECT_FALSE((*catalog_.Find("tiny"))->ready());
  catalog_.OnWorker(DecodeSnapshot("d:1", 0, 100));
  EXPECT_TRUE((*catalog_.Find("tiny"))->ready());

  const absl::Status unknown = catalog_.Find("huge").status();
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_EQ(ErrorReason(unknown), "MODEL_NOT_FOUND");
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("models: tiny"));

  catalog_.OnWorker(Named(PrefillSnapshot("p:2", 0), "other"));
  const absl::Status ambiguous = catalog_.Find("").status();
  EXPECT_TRUE(absl::IsInvalidArgument(ambiguous));
  EXPECT_EQ(ErrorReason(ambiguous), "MODEL_AMBIGUOUS");
  EXPECT_THAT(std::string(ambiguous.message()), HasSubstr("other, tiny"));
}

TEST_F(ModelCatalogTest, AModelOutlivesItsWorkers) {
  catalog_.OnWorker(PrefillSnapshot("p:1", 0));
  WorkerSnapshot gone = PrefillSnapshot("p:1", 0);
  gone.state = WorkerState::kUnreachable;
  catalog_.OnWorker(gone);
  EXPECT_EQ((*catalog_.Find("tiny"))->prefill_workers, 0);
  catalog_.OnWorkerRemoved("p:1", Stage::kPrefill);
  ASSERT_TRUE(catalog_.Find("tiny").ok());
  EXPECT_EQ((*catalog_.Find("tiny"))->prefill_workers, 0);
}

TEST_F(ModelCatalogTest, TheCompletePairIsServed) {
  catalog_.OnWorker(PrefillSnapshot("p:1", 0, 'a'));
  catalog_.OnWorker(PrefillSnapshot("p:2", 0, 'a'));
  catalog_.OnWorker(PrefillSnapshot("p:3", 0, 'b'));
  EXPECT_EQ((*catalog_.Find("tiny"))->fingerprint, std::string(32, 'a'));
  catalog_.OnWorker(DecodeSnapshot("d:1", 0, 100, 'b'));
  EXPECT_EQ((*catalog_.Find("tiny"))->fingerprint, std::string(32, 'b'));
  EXPECT_EQ((*catalog_.Find("tiny"))->prefill_workers, 1);
}

TEST_F(ModelCatalogTest, TheSmallestLimitCounts) {
  catalog_.OnWorker(Named(PrefillSnapshot("p:1", 0), "tiny", 512));
  catalog_.OnWorker(Named(DecodeSnapshot("d:1", 0, 100), "tiny", 128));
  EXPECT_EQ((*catalog_.Find("tiny"))->max_tokens, 128);
  WorkerSnapshot gone = Named(DecodeSnapshot("d:1", 0, 100), "tiny", 128);
  gone.state = WorkerState::kUnreachable;
  catalog_.OnWorker(gone);
  EXPECT_EQ((*catalog_.Find("tiny"))->max_tokens, 512);
}

TEST_F(ModelCatalogTest, CountsWorkersByState) {
  WorkerSnapshot snapshot = PrefillSnapshot("p:1", 0);
  snapshot.state = WorkerState::kConnecting;
  snapshot.info = nullptr;
  catalog_.OnWorker(snapshot);
  EXPECT_THAT(Scrape(),
              HasSubstr("{role=\"gateway\",model=\"unknown\",state=\"connecting\",worker_role=\"prefill\"} 1"));
  catalog_.OnWorker(PrefillSnapshot("p:1", 0));
  EXPECT_THAT(Scrape(),
              HasSubstr("{role=\"gateway\",model=\"unknown\",state=\"connecting\",worker_role=\"prefill\"} 0"));
  EXPECT_THAT(Scrape(), HasSubstr("{role=\"gateway\",model=\"tiny\",state=\"serving\",worker_role=\"prefill\"} 1"));
}

TEST(DefaultsOfTest, OursWhereTheModelSaysNothing) {
  worker::v1::Generation generation;
  EXPECT_EQ(DefaultsOf(generation).temperature(), 1);
  EXPECT_EQ(DefaultsOf(generation).top_k(), 0);
  EXPECT_EQ(DefaultsOf(generation).top_p(), 1);
  EXPECT_EQ(DefaultsOf(generation).max_new_tokens(), 256);
  generation.set_temperature(0.5f);
  generation.set_do_sample(false);
  EXPECT_EQ(DefaultsOf(generation).temperature(), 0);
  generation.set_do_sample(true);
  EXPECT_EQ(DefaultsOf(generation).temperature(), 0.5f);
}

}  // namespace
}  // namespace baton
