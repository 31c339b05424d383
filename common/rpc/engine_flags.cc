#include "common/rpc/engine_flags.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/model/weight_cache.h"

namespace baton {
namespace {

constexpr int kMaxThreads = 1024;
constexpr char kNoCache[] = "none";

// What --weights and --compute said, in whichever order.
struct ChosenPrecision {
  absl::optional<WeightPrecision> weights;
  absl::optional<WeightPrecision> compute;

  void CheckAgreement() const {
    if (!weights.has_value() || !compute.has_value() || *weights == *compute) return;
    throw CLI::ValidationError("--weights", absl::StrCat(WeightPrecisionName(*weights), " contradicts --compute ",
                                                         WeightPrecisionName(*compute), ": leave out --compute"));
  }
};

void AddWeights(CLI::App& app, EngineFlags* flags, const std::shared_ptr<ChosenPrecision>& chosen) {
  app.add_option_function<std::string>(
         "--weights",
         [flags, chosen](const std::string& text) {
           const absl::StatusOr<WeightPrecision> precision = ParseWeightPrecision(text);
           if (!precision.ok()) {
             throw CLI::ValidationError("--weights", "expected f32, bf16, int8, int4 or int8a8, got \"" + text + "\"");
           }
           chosen->weights = flags->weights = *precision;
           chosen->CheckAgreement();
         },
         "Precision of the weights: bf16; int8 and int4 (less memory, faster, less exact); int8a8 (int8 with "
         "activations "
         "in int8 too); f32 (exact mode, slow)")
      ->type_name("f32|bf16|int8|int4|int8a8")
      ->default_str(std::string(WeightPrecisionName(flags->weights)));
}

void AddCacheDirectory(CLI::App& app, EngineFlags* flags) {
  app.add_option("--cache-dir", flags->cache_dir,
                 "Where packed weights are kept, for the next start and for other workers of this machine; \"none\": "
                 "nowhere (default: $XDG_CACHE_HOME/baton or ~/.cache/baton)")
      ->type_name("DIR|none");
}

}  // namespace

std::string EngineFlags::CacheDirectory() const {
  if (cache_dir == kNoCache) return "";
  return cache_dir.empty() ? DefaultCacheDirectory() : cache_dir;
}

ModelOptions EngineFlags::ToModelOptions() const {
  ModelOptions options;
  options.weights = weights;
  options.threads = threads;
  options.cache_dir = CacheDirectory();
  return options;
}

void AddPackingFlags(CLI::App& app, EngineFlags* flags) {
  AddWeights(app, flags, std::make_shared<ChosenPrecision>());
  AddCacheDirectory(app, flags);
}

void AddEngineFlags(CLI::App& app, EngineFlags* flags) {
  const auto chosen = std::make_shared<ChosenPrecision>();
  AddWeights(app, flags, chosen);
  app.add_option_function<std::string>(
         "--compute",
         [flags, chosen](const std::string& text) {
           if (text != "f32" && text != "bf16") {
             throw CLI::ValidationError("--compute", "expected bf16 or f32, got \"" + text + "\"");
           }
           chosen->compute = text == "f32" ? WeightPrecision::kF32 : WeightPrecision::kBf16;
           if (!chosen->weights.has_value()) flags->weights = *chosen->compute;
           chosen->CheckAgreement();
         },
         "The older way to say --weights bf16 or --weights f32")
      ->type_name("bf16|f32");
  app.add_option_function<std::string>(
         "--isa",
         [flags](const std::string& text) {
           const absl::StatusOr<Isa> isa = ParseIsa(text);
           if (!isa.ok()) throw CLI::ValidationError("--isa", std::string(isa.status().message()));
           flags->isa = *isa;
         },
         "Instruction set of the kernels; auto: the best this CPU has")
      ->type_name("auto|portable|avx2|avx512|amx")
      ->default_str("auto")
      ->envname("BATON_ISA");
  AddCacheDirectory(app, flags);
  app.add_option("--threads", flags->threads, "Compute threads; 0: one per usable CPU")
      ->check(CLI::Range(0, kMaxThreads).description(""))
      ->type_name("N")
      ->capture_default_str();
}

void ApplyIsa(const EngineFlags& flags) {
  if (flags.isa.has_value()) SetIsa(*flags.isa);
}

}  // namespace baton
