// Which instruction set the kernels of this process use: the best one the CPU has, chosen at run time, so that one
// binary runs on any x86-64 (and, with the portable bodies, elsewhere).
//
// A kernel's body is written once, in an .inc file, and compiled once per instruction set by each_isa.inc:
//
//   #define BATON_ISA_BODY "common/compute/rowwise.inc"
//   #include "common/compute/each_isa.inc"
//   ... BATON_PICK_ISA(RmsNormRow)(arguments);
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

enum class Isa {
  kPortable,
  kAvx2,        // and FMA
  kAvx512,      // F, BW, DQ, VL
  kAvx512Bf16,  // and BF16, VBMI, VNNI
  kAmx,         // and AMX-TILE, AMX-BF16, with the kernel's permission to use tiles
};

absl::string_view IsaName(Isa isa);  // "portable", "avx2", "avx512", "avx512bf16", "amx"

// What this CPU can run, slowest first.
std::vector<Isa> SupportedIsas();

// The flag's words: "auto" (the best there is), "portable", "avx2", "avx512" (with BF16 where the CPU has it), "amx".
// INVALID_ARGUMENT for another word, FAILED_PRECONDITION for what this CPU lacks.
absl::StatusOr<Isa> ParseIsa(absl::string_view name);

// What SetIsa said; before, what the environment variable BATON_ISA says (a word as above); the best there is without
// it.
Isa CurrentIsa();
// At start-up, before any kernel runs: results of one process must come from one instruction set. `isa` must be
// supported.
void SetIsa(Isa isa);
// The same between the cases of a test.
void SetIsaForTesting(Isa isa);

}  // namespace baton
