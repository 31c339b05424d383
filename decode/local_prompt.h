// A prompt that the decode worker computes itself, in its own batch; the engine thread's alone.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "common/model/model.h"
#include "decode/decode_call.h"
#include "decode/samples.h"

namespace baton {

struct LocalPrompt {
  int64_t tokens() const { return static_cast<int64_t>(call->request().tokens.size()); }
  int64_t left() const { return tokens() - room.state.position(); }
  int priority() const { return call->request().priority; }
  // Of the step that is being made: the prompt's next tokens, with logits of its last one.
  SequenceRun Run() {
    SequenceRun run;
    run.state = &room.state;
    run.tokens = absl::MakeConstSpan(call->request().tokens)
                     .subspan(static_cast<size_t>(room.state.position()), static_cast<size_t>(in_step));
    run.logits_from = static_cast<size_t>(completes() ? in_step - 1 : in_step);
    return run;
  }
  bool completes() const { return in_step == left(); }

  std::shared_ptr<DecodeCall> call;
  // Its state has consumed the tokens that need not be computed, and then those that have been.
  Room room;
  // Tokens that it began with.
  int64_t cached_tokens = 0;
  // Tokens in the step that is being made.
  int64_t in_step = 0;
};

}  // namespace baton
