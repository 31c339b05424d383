// Workers that speak the real protocol and compute nothing, for measuring a gateway: a prefill worker that has each
// first token at once, and decode workers that send all others at once, each in its message.
//
//   BATON_ASSIGN_OR_RETURN(auto workers, InstantWorkers::Start({.model = "deploy/models/tiny-gemma2"}));
//   ... a gateway with --prefill-worker workers->prefill() --decode-worker workers->decode(0) ...
//   workers->Hold();                 // streams that begin from now on stop after their first token
//   workers->EndStreams();           // and all end
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "baton/worker/v1/worker.pb.h"

namespace baton {

// What such workers serve.
struct InstantWorkerModel {
  std::string tokenizer_bytes;
  int32_t vocab_size = 0;
  int32_t bos_id = 0;
  int32_t eos_id = 0;
  // Of a text; all output consists of them, over and over.
  std::vector<int32_t> text_ids;
};
absl::StatusOr<InstantWorkerModel> ReadInstantWorkerModel(const std::string& directory);
worker::v1::WorkerInfo InstantWorkerInfo(const InstantWorkerModel& model, worker::v1::WorkerInfo::Role role,
                                         bool computes_prompts);

struct InstantWorkersOptions {
  // A directory with tokenizer.model.
  std::string model = "deploy/models/tiny-gemma2";
  int decode_workers = 1;
  // Decode workers offer to compute short prompts themselves.
  bool computes_prompts = false;
};

class InstantWorkers {
 public:
  static absl::StatusOr<std::unique_ptr<InstantWorkers>> Start(const InstantWorkersOptions& options);
  ~InstantWorkers();
  InstantWorkers(const InstantWorkers&) = delete;

  std::string prefill() const;
  std::string decode(int worker) const;
  const std::vector<int32_t>& text_ids() const;
  const std::string& fingerprint() const;
  // The token at a position of any sequence.
  int32_t TokenAt(int64_t position) const;

  // Streams that begin from now on get nothing after their first token.
  void Hold();
  // Running streams end, as those that have reached a limit of their worker's.
  void EndStreams();

  // By the prefill worker, since the start.
  int64_t prompts_computed() const;

 private:
  struct Impl;
  explicit InstantWorkers(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace baton
