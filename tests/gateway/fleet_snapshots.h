// Workers as the registry would describe them, for tests without any.
#pragma once

#include <memory>
#include <string>

#include "gateway/fleet.h"

namespace baton {

inline WorkerSnapshot ServingSnapshot(Stage stage, const std::string& endpoint, char mark, uint64_t report) {
  auto info = std::make_shared<worker::v1::WorkerInfo>();
  info->set_role(stage == Stage::kPrefill ? worker::v1::WorkerInfo::PREFILL : worker::v1::WorkerInfo::DECODE);
  info->set_boot_id("boot of " + endpoint);
  info->set_model_name("tiny");
  info->set_fingerprint(std::string(32, mark));
  info->set_vocab_size(1000);
  info->set_max_tokens(512);
  info->mutable_state_bytes()->set_fixed(1000);
  info->mutable_state_bytes()->add_growth()->set_per_token(10);
  WorkerSnapshot snapshot;
  snapshot.endpoint = endpoint;
  snapshot.stage = stage;
  snapshot.state = WorkerState::kServing;
  snapshot.info = info;
  snapshot.load_reports = report;
  snapshot.connection = std::make_shared<WorkerConnection>(endpoint);
  return snapshot;
}

inline WorkerSnapshot PrefillSnapshot(const std::string& endpoint, int64_t queued_tokens, char mark = 'f',
                                      uint64_t report = 1) {
  WorkerSnapshot snapshot = ServingSnapshot(Stage::kPrefill, endpoint, mark, report);
  snapshot.load.set_queued_tokens(queued_tokens);
  return snapshot;
}

inline WorkerSnapshot DecodeSnapshot(const std::string& endpoint, int64_t used, int64_t total, char mark = 'f',
                                     uint64_t report = 1) {
  WorkerSnapshot snapshot = ServingSnapshot(Stage::kDecode, endpoint, mark, report);
  snapshot.load.set_state_bytes_used(used);
  snapshot.load.set_state_bytes_total(total);
  return snapshot;
}

}  // namespace baton
