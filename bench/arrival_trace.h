// Requests of a real service, to be replayed: a CSV file with a line for each, in the order of arrival.
//
//   seconds,prompt_tokens,output_tokens      (this line may be left out)
//   0.0,412,64
//   0.731,1890,12
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bench/serve_workload.h"

namespace baton {

// All items are measured; arrivals count from the first. INVALID_ARGUMENT naming `path` and the line.
absl::StatusOr<Workload> ParseArrivalTrace(absl::string_view text, absl::string_view path);

}  // namespace baton
