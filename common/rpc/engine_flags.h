// The flags that say how a model is computed: of both workers, bench_engine and golden_check.
//
//   EngineFlags flags;
//   AddEngineFlags(app, &flags);
//   ...                                       // parse
//   ApplyIsa(flags);                          // before any kernel runs
//   ModelOptions options = flags.ToModelOptions();
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "absl/types/optional.h"
#include "common/compute/cpu_isa.h"
#include "common/compute/packed_matrix.h"
#include "common/model/model.h"

namespace baton {

struct EngineFlags {
  WeightPrecision weights = ModelOptions().weights;
  // Absent: the best there is.
  absl::optional<Isa> isa;
  // Empty: DefaultCacheDirectory(); "none": no cache.
  std::string cache_dir;
  // 0: one per usable CPU.
  int threads = 0;

  // Where packed weights are kept; empty for nowhere.
  std::string CacheDirectory() const;
  ModelOptions ToModelOptions() const;
};

// --weights (and --compute, its older spelling), --isa (environment: BATON_ISA), --cache-dir, --threads. `flags`, whose
// values are the defaults, must outlive `app`.
void AddEngineFlags(CLI::App& app, EngineFlags* flags);

// --weights and --cache-dir alone.
void AddPackingFlags(CLI::App& app, EngineFlags* flags);

void ApplyIsa(const EngineFlags& flags);

}  // namespace baton
