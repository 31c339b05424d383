// Workers that speak the real protocol and compute nothing, for measuring a gateway: a prefill worker that has each
// first token at once, and decode workers whose tokens cost nothing. They send as the real ones do: one message per
// token and step, and several tokens in one only while the gateway is behind (decode/engine.cc).
//
//   BATON_ASSIGN_OR_RETURN(auto workers, InstantWorkers::Start({.model = "deploy/models/tiny-gemma2"}));
//   ... a gateway with --prefill-worker workers->prefill() --decode-worker workers->decode(0) ...
//   workers->Step(100);              // streams get a token a hundredth of a second from now on
//   workers->EndStreams();           // and all end
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace baton {

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
  // Text that a prompt may consist of, and its tokens, of which all output consists, over and over.
  const std::string& text() const;
  const std::vector<int32_t>& text_ids() const;
  const std::string& fingerprint() const;
  // The token at a position of any sequence.
  int32_t TokenAt(int64_t position) const;

  // What streams do after their first token. At first: all tokens at once, each in its message.
  void AnswerAtOnce();
  void Step(double steps_per_second);
  void Hold();
  // Running streams end, as those that have reached a limit of their worker's.
  void EndStreams();

  // Since the start: by the decode workers.
  int64_t tokens_sent() const;
  int64_t messages_sent() const;
  // By the prefill worker.
  int64_t prompts_computed() const;

 private:
  struct Impl;
  explicit InstantWorkers(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace baton
