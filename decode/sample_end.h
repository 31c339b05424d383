// Which token ends a sample: a stop token, the one that completes a stop string, or the last that was asked for.
//
// Text is the gateway's business, and in most requests nothing here decodes any. But a state cannot be rolled back by
// the tokens that are made while the gateway reads: of a sequence that is to be kept, the worker finds the end itself,
// with the gateway's decoder (common/text/stream_decoder.h). Which of several reasons counts is as in the gateway
// (TokenRelay): a stop string, a stop token, the length.
//
//   SampleEnd end(request, vocabulary);
//   if (const absl::optional<DoneReason> reason = end.Push(token, generated)) ...
#pragma once

#include <cstdint>
#include <memory>

#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/rpc/worker_request.h"
#include "common/text/stream_decoder.h"
#include "common/text/vocabulary.h"

namespace baton {

class SampleEnd {
 public:
  // Both must outlive it. `vocabulary`: null: stop strings are not looked for.
  SampleEnd(const SequenceRequest* request, const TokenText* vocabulary);

  // Why the sample ends with `token`, the last of `generated` generated ones; absent: it goes on. Of a request with
  // stop strings, which has one sample, this is told every token, in order, from the first that is made here on. Other
  // requests' samples may share one.
  absl::optional<worker::v1::DoneReason> Push(int32_t token, int64_t generated);

 private:
  const SequenceRequest* const request_;
  // Null: there are no stop strings.
  std::unique_ptr<StreamDecoder> text_;
};

}  // namespace baton
