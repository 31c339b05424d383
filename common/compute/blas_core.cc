#include "common/compute/blas_core.h"

#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace baton {
namespace {

constexpr char kCoreVariable[] = "OPENBLAS_CORETYPE";
// Set across the exec, to the core that was found: it happened, and must not happen again.
constexpr char kGuardVariable[] = "BATON_OPENBLAS_WAS";

// What OpenBLAS 0.3.21 names its cores on x86-64, by the widest vectors their SGEMM uses.
constexpr const char* kAvx512Cores[] = {"skylakex", "cooperlake", "sapphirerapids"};
constexpr const char* kAvx2Cores[] = {"haswell", "zen", "excavator"};

template <size_t n>
bool IsOneOf(const std::string& core, const char* const (&cores)[n]) {
  return std::find(cores, cores + n, absl::AsciiStrToLower(core)) != cores + n;
}

}  // namespace

BlasCpu ThisBlasCpu() {
  BlasCpu cpu;
#if defined(__x86_64__)
  __builtin_cpu_init();
  cpu.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  cpu.avx512 = cpu.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return cpu;
}

absl::optional<std::string> BetterBlasCore(const std::string& core, const BlasCpu& cpu) {
  if (cpu.avx512) {
    if (IsOneOf(core, kAvx512Cores)) return absl::nullopt;
    return "SkylakeX";
  }
  if (!cpu.avx2 || IsOneOf(core, kAvx2Cores) || IsOneOf(core, kAvx512Cores)) return absl::nullopt;
  return "Haswell";
}

BlasCoreChoice ChooseBlasCore(const std::string& core, const BlasCpu& cpu, const char* user_choice,
                              const char* before_restart) {
  BlasCoreChoice choice;
  choice.core = core;
  if (before_restart != nullptr) choice.instead_of = before_restart;
  const absl::optional<std::string> better = BetterBlasCore(core, cpu);
  if (!better.has_value()) return choice;
  if (before_restart != nullptr) {
    choice.problem = absl::StrCat("this OpenBLAS has no kernels for ", *better);
  } else if (user_choice != nullptr) {
    choice.problem = absl::StrCat(kCoreVariable, "=", user_choice, " is set; unset, ", *better, " would be used");
  } else {
    choice.restart_with = better;
  }
  return choice;
}

BlasCoreChoice RestartForBlas(const char* const* argv) {
  BlasCoreChoice choice =
      ChooseBlasCore(openblas_get_corename(), ThisBlasCpu(), std::getenv(kCoreVariable), std::getenv(kGuardVariable));
  unsetenv(kGuardVariable);  // not for children
  if (!choice.restart_with.has_value()) return choice;
  setenv(kCoreVariable, choice.restart_with->c_str(), /*overwrite=*/1);
  setenv(kGuardVariable, choice.core.c_str(), /*overwrite=*/1);
  execv("/proc/self/exe", const_cast<char* const*>(argv));  // takes them as C did
  choice.problem = absl::StrCat("can't start this program again with ", kCoreVariable, "=", *choice.restart_with, ": ",
                                std::strerror(errno));
  unsetenv(kCoreVariable);
  unsetenv(kGuardVariable);
  return choice;
}

}  // namespace baton
