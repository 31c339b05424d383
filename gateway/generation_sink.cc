#include "gateway/generation_sink.h"

namespace baton {

bool MergeDeltas(v1::GenerateEvent* into, v1::GenerateEvent* from) {
  if (!into->has_delta() || !from->has_delta()) return false;
  v1::Delta* const delta = into->mutable_delta();
  v1::Delta* const next = from->mutable_delta();
  if (delta->choice() != next->choice()) return false;
  if (!delta->logprobs().empty() || !next->logprobs().empty()) return false;
  delta->mutable_text()->append(next->text());
  delta->mutable_token_ids()->MergeFrom(next->token_ids());
  return true;
}

}  // namespace baton
