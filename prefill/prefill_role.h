// The prefill worker as a process: its own flags, its engine and service, for common/rpc/worker_main.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/rpc/worker_main.h"
#include "prefill/prefill_engine.h"
#include "prefill/prefill_metrics.h"
#include "prefill/prefill_service.h"

namespace baton {

class PrefillRole final : public WorkerRole {
 public:
  worker::v1::WorkerInfo::Role role() const override { return worker::v1::WorkerInfo::PREFILL; }
  std::string description() const override;
  std::string default_listen() const override { return "127.0.0.1:7101"; }
  void AddFlags(CLI::App& app) override;
  int max_run_tokens() const override { return chunk_tokens_; }
  BatchLimits batch_limits() const override;
  int64_t handoff_bytes() const override;
  absl::Status Start(const WorkerContext& context) override;
  std::vector<grpc::Service*> services() override { return {service_.get()}; }
  void Stop() override;

 private:
  int chunk_tokens_ = 512;
  int max_queue_ = 256;
  HandoffOptions handoff_;
  // Absent: half of the state memory.
  absl::optional<int64_t> prefix_cache_bytes_;
  int prefix_snapshot_blocks_ = 16;
  int inject_handoff_delay_ms_ = 0;
  std::unique_ptr<PrefillMetrics> metrics_;
  std::unique_ptr<PrefillEngine> engine_;
  std::unique_ptr<PrefillService> service_;
};

}  // namespace baton
