#include "common/compute/cpu_isa.h"

#include <algorithm>
#include <atomic>

#include "common/base/status_macros.h"

namespace baton {
namespace {

std::atomic<Isa>& Chosen() {
  static std::atomic<Isa> chosen{SupportedIsas().back()};
  return chosen;
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
  }
  return "unknown";
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas = {Isa::kPortable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return isas;
  isas.push_back(Isa::kAvx2);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return isas;
  }
  isas.push_back(Isa::kAvx512);
#endif
  return isas;
}

Isa CurrentIsa() { return Chosen().load(std::memory_order_relaxed); }

void SetIsaForTesting(Isa isa) {
  const std::vector<Isa> supported = SupportedIsas();
  BATON_CHECK(std::find(supported.begin(), supported.end(), isa) != supported.end());
  Chosen().store(isa, std::memory_order_relaxed);
}

}  // namespace baton
