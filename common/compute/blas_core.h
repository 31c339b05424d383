// The kernels OpenBLAS chose for this CPU. A library older than the CPU may not know it and fall back to kernels of
// twenty years ago (0.3.21 takes Sapphire Rapids' successors for a Prescott), several times slower than those for the
// nearest CPU it does know. It decides when it is loaded, so the remedy is an environment variable and another exec.
//
//   const BlasCoreChoice choice = RestartForBlas(argv);      // returns in the process that goes on
//   LogIt(choice.core, choice.instead_of, choice.problem);
#pragma once

#include <string>

#include "absl/types/optional.h"

namespace baton {

// What matters of a CPU.
struct BlasCpu {
  bool avx2 = false;    // and FMA
  bool avx512 = false;  // F, BW, DQ, VL
};
BlasCpu ThisBlasCpu();

// The core type to ask for instead of `core` (openblas_get_corename()), or nothing where `core` uses the CPU's vectors.
absl::optional<std::string> BetterBlasCore(const std::string& core, const BlasCpu& cpu);

struct BlasCoreChoice {
  // What OpenBLAS uses now.
  std::string core;
  // What it used before the restart; empty when there was none.
  std::string instead_of;
  // Start again with this OPENBLAS_CORETYPE.
  absl::optional<std::string> restart_with;
  // Why a slow core is kept; empty where it is not slow.
  std::string problem;
};

// `user_choice`: OPENBLAS_CORETYPE as the user set it, `before_restart`: the core before this program's first restart;
// null for none.
BlasCoreChoice ChooseBlasCore(const std::string& core, const BlasCpu& cpu, const char* user_choice,
                              const char* before_restart);

// Restarts this program (same process, same arguments) where that makes float32 products faster, and then does not
// return; at most once, and never when the user has set OPENBLAS_CORETYPE. Call before threads start.
BlasCoreChoice RestartForBlas(const char* const* argv);

}  // namespace baton
