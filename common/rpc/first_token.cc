#include "common/rpc/first_token.h"

namespace baton {
namespace {

FirstTokenRecord MakeRecord(const SequenceRequest& request, absl::Span<const float> logits, int32_t id,
                            worker::v1::FirstToken* told) {
  told->set_id(id);
  const absl::optional<worker::v1::DoneReason> end = request.EndAt(id, request.generated_tokens + 1);
  if (end.has_value()) told->set_done(*end);
  FirstTokenRecord record;
  if (request.logprobs) {
    const TokenLogprob logprob = ComputeLogprob(logits, id, request.top_logprobs);
    ToProto(logprob, told->mutable_logprobs());
    record = MakeFirstTokenRecord(id, logprob);
  } else {
    record = MakeFirstTokenRecord(id);
  }
  record.ends = end.has_value();
  return record;
}

}  // namespace

std::vector<FirstTokenRecord> SampleFirstTokens(const SequenceRequest& request, absl::Span<const float> logits,
                                                Sampler& sampler, worker::v1::FirstToken* told) {
  const TokenHistory history = request.MakeHistory();
  const int64_t position = static_cast<int64_t>(request.tokens.size());
  SamplingParams sampling = request.sampling;
  std::vector<FirstTokenRecord> records;
  for (int sample = 0; sample < request.samples(); ++sample) {
    sampling.seed = request.seed(sample);
    const int32_t id = sampler.Sample(logits, sampling, history, request.MaskedIds(request.generated_tokens), position);
    records.push_back(MakeRecord(request, logits, id, sample == 0 ? told : told->add_further()));
  }
  return records;
}

}  // namespace baton
