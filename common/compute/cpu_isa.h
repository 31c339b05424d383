// Which instruction set the kernels of this process use: the best one the CPU has, chosen at run time, so that one
// binary runs on any x86-64 (and, with the portable bodies, elsewhere).
//
// A kernel's body is written once, in an .inc file, and compiled once per instruction set by each_isa.inc:
//
//   #define BATON_ISA_BODY "common/compute/linear_bf16.inc"
//   #include "common/compute/each_isa.inc"
//   ... BATON_PICK_ISA(LinearBf16Range)(arguments);
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace baton {

enum class Isa { kPortable, kAvx2, kAvx512 };

absl::string_view IsaName(Isa isa);  // "portable", "avx2", "avx512"

// What this CPU can run, slowest first.
std::vector<Isa> SupportedIsas();
Isa CurrentIsa();
// `isa` must be supported. Not while kernels run: results of one process must come from one instruction set.
void SetIsaForTesting(Isa isa);

}  // namespace baton
