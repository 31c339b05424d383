// The models this gateway serves, as its workers describe them. A name is known from the first worker that announces
// it, and stays known while its workers are away.
//
// Workers of one name normally share a fingerprint. When they do not (a roll-out in progress), the catalogue serves the
// fingerprint that has both roles and the most workers; state never crosses from one to the other.
//
//   BATON_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, catalog.Find(request.model()));
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "baton/v1/inference.pb.h"
#include "gateway/api_keys.h"
#include "gateway/fleet.h"
#include "gateway/gateway_metrics.h"

namespace baton {

// One model as requests see it. Immutable; requests keep the one they began with.
struct ServedModel {
  std::string name;
  // Raw 32 bytes.
  std::string fingerprint;
  std::string family;
  std::string compute;
  std::string weights;
  int32_t vocab_size = 0;
  // Prompt plus output: the smallest of its serving workers' limits.
  int64_t max_tokens = 0;
  int64_t parameters = 0;
  worker::v1::Generation generation;
  // Null for a checkpoint without one: such a model takes and gives token ids only.
  std::shared_ptr<const Tokenizer> tokenizer;
  // Bytes of text one token can stand for at most; 0: not known.
  int64_t longest_piece_bytes = 0;
  ModelMetrics* metrics = nullptr;
  int prefill_workers = 0;
  int decode_workers = 0;

  bool ready() const { return prefill_workers > 0 && decode_workers > 0; }
};

// Used when neither request nor generation_config.json says how many.
inline constexpr int32_t kDefaultMaxNewTokens = 256;

// Defaults of a model: what its generation_config.json says, else ours. do_sample false is temperature 0.
v1::GenerationDefaults DefaultsOf(const worker::v1::Generation& generation);

class ModelCatalog : public FleetObserver {
 public:
  // `metrics` must outlive it and the models it hands out.
  explicit ModelCatalog(GatewayMetrics* metrics) : metrics_(metrics) {}

  // An empty name means the only model there is.
  //   UNAVAILABLE (NO_WORKERS)          no worker has answered yet
  //   INVALID_ARGUMENT (MODEL_AMBIGUOUS) empty name, several models
  //   NOT_FOUND (MODEL_NOT_FOUND)       with the names there are
  //   PERMISSION_DENIED (MODEL_NOT_ALLOWED) not one of those that `limits` allow; the others are not there for it
  absl::StatusOr<std::shared_ptr<const ServedModel>> Find(const std::string& name,
                                                          const ClientLimits& limits = {}) const;
  // By name, those that `limits` allow.
  std::vector<std::shared_ptr<const ServedModel>> Models(const ClientLimits& limits = {}) const;

  void OnWorker(const WorkerSnapshot& snapshot) override;
  void OnWorkerRemoved(const std::string& endpoint, Stage stage) override;

 private:
  using Key = std::pair<Stage, std::string>;

  // Works out models_ and the worker gauges from workers_.
  void Rebuild();
  std::shared_ptr<const ServedModel> Describe(const std::string& name);
  int64_t LongestPieceBytes(const std::shared_ptr<const Tokenizer>& tokenizer);

  GatewayMetrics* const metrics_;
  // Guards what follows.
  mutable std::mutex mutex_;
  std::map<Key, WorkerSnapshot> workers_;
  std::map<std::string, std::shared_ptr<const ServedModel>> models_;
  // Worked out once per tokenizer.
  std::map<std::shared_ptr<const Tokenizer>, int64_t> longest_pieces_;
  // Fingerprints last warned about, by model name.
  std::map<std::string, int> fingerprints_warned_;
};

}  // namespace baton
