// A load run's figures, for people and for machines.
#pragma once

#include <string>

#include "bench/serve_load.h"
#include "bench/serve_results.h"

namespace baton {

// What is not in the results: how the run was made and how it ended.
struct ServeRun {
  ServeLoadOptions load;
  Workload workload;
  ServiceBounds bounds;
  ServeLoad::Progress end;
  bool interrupted = false;
};

// Lines for a terminal, each ending in a newline.
std::string ReportText(const ServeRun& run, const ServeReport& report);
// One JSON object; seconds and tokens; figures without samples are null.
std::string ReportJson(const ServeRun& run, const ServeReport& report);

}  // namespace baton
