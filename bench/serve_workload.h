// What a load run asks for and when, drawn before it begins and from the seed alone: arrivals are an open-loop Poisson
// process that does not wait for answers, and request i has the same prompt whatever the rate is.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/length_distribution.h"

namespace baton {

struct WorkloadOptions {
  uint64_t seed = 1;
  // Requests a second.
  double rate = 1;
  // Seconds of arrivals that are measured, after `warmup` seconds of arrivals that are not. Unlimited when 0.
  double duration = 0;
  double warmup = 0;
  // Measured arrivals. Unlimited when 0; one of the two limits must be set.
  int64_t requests = 0;
  LengthDistribution prompt_tokens;
  LengthDistribution output_tokens;
  // Of prompt and output together: longer draws are cut.
  int64_t max_tokens = 0;
  int32_t vocab_size = 0;
  // All prompts begin with the same so many tokens, as with a common system prompt; shorter prompts with as many as
  // fit.
  int64_t shared_prefix = 0;
  // Prompts are pieces of this text; when empty, of random ids that are no control symbols.
  std::vector<int32_t> text_ids;
};

struct WorkItem {
  int64_t index = 0;
  // Seconds after the beginning of the run.
  double arrival = 0;
  bool measured = false;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
};

struct Workload {
  std::vector<WorkItem> items;
  // Seconds after the beginning of the run between which arrivals are measured.
  double measure_begin = 0;
  double measure_end = 0;
  // A number of requests, not the clock, ended the arrivals.
  bool by_count = false;
  // How many items were cut to max_tokens.
  int64_t cut = 0;
};

// INVALID_ARGUMENT when the shortest prompt and output do not fit max_tokens, or there would be no arrival, or more
// than kMaxWorkItems.
absl::StatusOr<Workload> MakeWorkload(const WorkloadOptions& options);

inline constexpr int64_t kMaxWorkItems = 1'000'000;
// Control, reserved and turn symbols of the Gemma vocabularies lie below; they never occur in random prompts.
inline constexpr int32_t kFirstPlainToken = 110;

std::vector<int32_t> MakePrompt(const WorkloadOptions& options, const WorkItem& item);

}  // namespace baton
