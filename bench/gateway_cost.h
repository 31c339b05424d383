// What a gateway costs: a real baton-gateway, alone on one core, between instant workers and clients on another one.
// Each function starts a gateway and workers of its own, measures one thing and ends them.
//
//   GatewayCostOptions options;
//   BATON_ASSIGN_OR_RETURN(const AddedLatency latency, MeasureLatency(options, /*local=*/false));
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/latency_summary.h"

namespace baton {

struct GatewayCostOptions {
  // baton-gateway, and this program, which is also the bare relay.
  std::string gateway_program;
  std::string own_program;
  // With tokenizer.model.
  std::string model = "deploy/models/tiny-gemma2";
  int gateway_core = 0;
  int load_core = 1;
  std::vector<std::string> gateway_flags;
  std::string gateway_log = "/dev/null";
  double seconds = 3;
  int connections = 4;
  // Latency: pairs of requests, and the pause after each.
  int pairs = 2000;
  double pause_seconds = 0.001;
};

// Seconds to the first token of requests one at a time, each asked of the gateway and then of the workers themselves.
struct AddedLatency {
  LatencySummary gateway;
  LatencySummary direct;
  // Of each pair.
  LatencySummary added;
};
// `local`: a short prompt that the decode worker computes; else one that goes through a prefill worker.
absl::StatusOr<AddedLatency> MeasureLatency(const GatewayCostOptions& options, bool local);

struct RequestCost {
  int output_tokens = 0;
  double requests_per_second = 0;
  double requests_per_cpu_second = 0;
};
absl::StatusOr<RequestCost> MeasureRequests(const GatewayCostOptions& options, int output_tokens, int callers);

struct StreamCost {
  int streams = 0;
  // Tokens a second that the worker sampled, and that clients read.
  double offered = 0;
  double delivered = 0;
  // Of the gateway's core.
  double cpu_share = 0;
  double tokens_per_cpu_second = 0;
  // From the workers, and to the clients.
  double tokens_per_message_in = 0;
  double tokens_per_message_out = 0;
  // At the end: sampled and not read yet, in seconds of that rate.
  double behind_seconds = 0;
};
// `relay`: the bare relay instead of a gateway. Workers take steps; in each, every stream gets one token.
absl::StatusOr<StreamCost> MeasureStreams(const GatewayCostOptions& options, int streams, double tokens_per_second,
                                          bool relay);

struct IdleCost {
  int streams = 0;
  int connections = 0;
  double open_seconds = 0;
  int64_t bytes_before = 0;
  int64_t bytes_open = 0;
  int64_t bytes_after = 0;
  double bytes_per_stream = 0;
  // While they were idle.
  double cpu_share = 0;
  int64_t ended_well = 0;
};
absl::StatusOr<IdleCost> MeasureIdle(const GatewayCostOptions& options, int streams);

}  // namespace baton
