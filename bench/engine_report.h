// The figures of bench_engine for people (lines of a table) and for machines (JSON).
#pragma once

#include <string>
#include <vector>

#include "bench/engine_bench.h"
#include "bench/machine_limits.h"
#include "common/model/model.h"

namespace baton {

// Everything one run of bench_engine measured.
struct EngineRun {
  std::string directory;
  EngineBenchOptions options;
  MachineLimits before;
  MachineLimits after;
  std::vector<EngineResult> results;
};

// "machine before: ...", one line with its newline.
std::string LimitsLine(const std::string& when, const MachineLimits& limits);
std::string ModelLine(const EngineRun& run, const Model& model);
// For models so small that "of bound" may exceed 100 %; else empty.
std::string CacheNote(const EngineRun& run, const Model& model);
// Column titles, then a line per figure: each with its newline. Ratios are against `limits`.
std::string TableHeader();
std::string TableLine(const EngineResult& result, ComputeMode compute);
// "decode   batch 1: context 8192 at 97.1 % of the speed of context 128"; both of one batch size.
std::string ContextLine(const EngineResult& result, const EngineResult& first);
// One object; seconds, bytes, tokens and FLOP. Ratios are against the mean of both measurements.
std::string ReportJson(const EngineRun& run, const Model& model);

}  // namespace baton
