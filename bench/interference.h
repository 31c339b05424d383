// How much long prompts disturb running streams: `streams` requests decode all the time, first alone, then while long
// prompts keep arriving; the gaps between their tokens are compared. The same load on several fleets, one after the
// other, so that ways to set up workers stand side by side in one run.
//
//   BATON_ASSIGN_OR_RETURN(InterferenceResult result, MeasureInterference(options, setup));
//   std::fputs(InterferenceText(options, results).c_str(), stdout);      // and ...Json, ...Svg
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/latency_summary.h"

namespace baton {

struct InterferenceOptions {
  std::string model;
  int32_t vocab_size = 0;
  int64_t max_tokens = 0;
  uint64_t seed = 1;
  int streams = 8;
  int64_t stream_prompt_tokens = 32;
  // A stream that ends begins anew.
  int64_t stream_output_tokens = 512;
  int64_t prompt_tokens = 4096;
  // Tokens each long prompt asks for.
  int64_t prompt_output_tokens = 2;
  // Long prompts under way at a time: as one ends, the next arrives.
  int prompts_in_flight = 1;
  // Of each of the two phases, and before the first.
  double seconds = 15;
  double warmup = 2;
};

struct InterferenceSetup {
  std::string name;
  std::string gateway;
};

struct InterferenceResult {
  InterferenceSetup setup;
  // Between tokens of one stream, in each phase.
  LatencySummary quiet;
  LatencySummary loaded;
  // Of the long prompts that were answered.
  LatencySummary time_to_first_token;
  double prompts_per_second = 0;
  // (seconds since the beginning of the quiet phase, seconds between two tokens), in the order of time.
  std::vector<std::pair<double, double>> gaps;

  double P99Ratio() const { return loaded.p99 / quiet.p99; }
};

// UNAVAILABLE when a stream or a long prompt fails.
absl::StatusOr<InterferenceResult> MeasureInterference(const InterferenceOptions& options,
                                                       const InterferenceSetup& setup);

std::string InterferenceText(const InterferenceOptions& options, const std::vector<InterferenceResult>& results);
std::string InterferenceJson(const InterferenceOptions& options, const std::vector<InterferenceResult>& results);
// Gaps over time, one strip for each setup.
std::string InterferenceSvg(const InterferenceOptions& options, const std::vector<InterferenceResult>& results);

}  // namespace baton
