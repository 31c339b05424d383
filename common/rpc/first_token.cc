#include "common/rpc/first_token.h"

namespace baton {
namespace {

FirstTokenRecord MakeRecord(const SequenceRequest& request, absl::Span<const float> logits, int32_t id,
                            worker::v1::FirstToken* told) {
  told->set_id(id);
  if (EndsSample(request, id)) told->set_done(request.IsStop(id) ? worker::v1::STOP_TOKEN : worker::v1::LENGTH);
  FirstTokenRecord record;
  if (request.logprobs) {
    const TokenLogprob logprob = ComputeLogprob(logits, id, request.top_logprobs);
    ToProto(logprob, told->mutable_logprobs());
    record = MakeFirstTokenRecord(id, logprob);
  } else {
    record = MakeFirstTokenRecord(id);
  }
  record.ends = told->has_done();
  return record;
}

}  // namespace

bool EndsSample(const SequenceRequest& request, int32_t first_token) {
  return request.IsStop(first_token) || request.generated_tokens + 1 >= request.max_new_tokens;
}

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
