#include "common/compute/cpu_isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

#if defined(__x86_64__)

// AMX-TILE and AMX-BF16, and Linux's leave to use tile registers, which a process asks for once.
bool HasAmx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22;
  constexpr unsigned kAmxTile = 1u << 24;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::vector<Isa> DetectIsas() {
  std::vector<Isa> isas = {Isa::kPortable};
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return isas;
  isas.push_back(Isa::kAvx2);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return isas;
  }
  isas.push_back(Isa::kAvx512);
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vbmi") ||
      !__builtin_cpu_supports("avx512vnni")) {
    return isas;
  }
  isas.push_back(Isa::kAvx512Bf16);
  if (HasAmx()) isas.push_back(Isa::kAmx);
  return isas;
}

#else

std::vector<Isa> DetectIsas() { return {Isa::kPortable}; }

#endif

// BATON_ISA lets programs without a flag, tests above all, run on another instruction set. Those with one have checked
// the variable while parsing; here a value that can't be used ends the program rather than run something else.
Isa FirstChoice() {
  const char* name = std::getenv("BATON_ISA");
  if (name == nullptr) return SupportedIsas().back();
  const absl::StatusOr<Isa> isa = ParseIsa(name);
  if (isa.ok()) return *isa;
  std::fprintf(stderr, "BATON_ISA: %s\n", std::string(isa.status().message()).c_str());
  std::exit(2);
}

std::atomic<Isa>& Chosen() {
  static std::atomic<Isa> chosen{FirstChoice()};
  return chosen;
}

bool IsSupported(Isa isa) {
  const std::vector<Isa> supported = SupportedIsas();
  return std::find(supported.begin(), supported.end(), isa) != supported.end();
}

}  // namespace

absl::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

std::vector<Isa> SupportedIsas() {
  static const std::vector<Isa>* const isas = new std::vector<Isa>(DetectIsas());
  return *isas;
}

absl::StatusOr<Isa> ParseIsa(absl::string_view name) {
  if (name == "auto") return SupportedIsas().back();
  if (name == "avx512" && IsSupported(Isa::kAvx512Bf16)) return Isa::kAvx512Bf16;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (IsaName(isa) != name) continue;
    if (IsSupported(isa)) return isa;
    const std::string supported =
        absl::StrJoin(SupportedIsas(), ", ", [](std::string* out, Isa each) { absl::StrAppend(out, IsaName(each)); });
    return absl::FailedPreconditionError(
        absl::StrCat("this CPU lacks the instruction set \"", name, "\"; it has ", supported, ": use auto"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown instruction set \"", name, "\": use auto, portable, avx2, avx512 or amx"));
}

Isa CurrentIsa() { return Chosen().load(std::memory_order_relaxed); }

void SetIsa(Isa isa) {
  BATON_CHECK(IsSupported(isa));
  Chosen().store(isa, std::memory_order_relaxed);
}

void SetIsaForTesting(Isa isa) { SetIsa(isa); }

}  // namespace baton
