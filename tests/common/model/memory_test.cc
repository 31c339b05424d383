// A model takes the memory it says: packed weights plus workspace, whatever the checkpoint's size and type.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/model/model.h"
#include "common/model/synth.h"
#include "common/model/weights.h"
#include "common/model/workspace.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

// 37 million parameters, most of them in the embedding: 141 MiB in float32.
constexpr char kConfig[] = R"({
  "model_type": "gemma2", "vocab_size": 65536, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "query_pre_attn_scalar": 64,
  "sliding_window": 64, "max_position_embeddings": 1024, "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "attention_bias": false, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0})";

constexpr int kRows = 128;
// The allocator's slack, thread stacks, page tables' rounding.
constexpr int64_t kMargin = int64_t{12} << 20;

// A field of /proc/self/status, such as VmHWM.
int64_t StatusBytes(absl::string_view field) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    int64_t kibibytes = 0;
    if (absl::ConsumePrefix(&rest, absl::StrCat(field, ":")) && absl::ConsumeSuffix(&rest, " kB") &&
        absl::SimpleAtoi(rest, &kibibytes)) {
      return kibibytes * 1024;
    }
  }
  return -1;
}

class MemoryTest : public testing::TestWithParam<std::tuple<TensorType, WeightPrecision, bool>> {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    for (const TensorType dtype : {TensorType::kF32, TensorType::kBF16}) {
      SynthOptions options;
      options.config_text = kConfig;
      options.out = CheckpointDirectory(dtype);
      options.dtype = dtype;
      const auto written = WriteSyntheticCheckpoint(options);
      ASSERT_TRUE(written.ok()) << written.status();
    }
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static std::string CheckpointDirectory(TensorType dtype) { return directory_->File(TensorTypeName(dtype)); }
  static std::string CacheDirectory() { return directory_->File("cache"); }

  static std::unique_ptr<TemporaryDirectory> directory_;
};
std::unique_ptr<TemporaryDirectory> MemoryTest::directory_;

// In a process of its own. 0: as planned; else what went wrong, for a person.
int LoadAndCompute(const std::string& directory, WeightPrecision weights, const std::string& cache) {
  const auto checkpoint = Checkpoint::Open(directory);
  if (!checkpoint.ok()) return 2;
  const auto plan = PlanWeights(*checkpoint, weights);
  if (!plan.ok()) return 3;
  const BatchLimits limits = {.rows = kRows, .logit_rows = 4};
  const int64_t planned = plan->weights->bytes + WorkspaceBytes(checkpoint->config(), limits);
  const int64_t before = StatusBytes("VmRSS");

  ModelOptions options;
  options.weights = weights;
  options.threads = 2;
  options.cache_dir = cache;
  auto model = Model::Load(directory, options);
  if (!model.ok()) return 4;
  MemoryBudget budget(int64_t{1} << 30);
  auto state = SequenceState::Create((*model)->MakeStateLayout(kRows), budget, kRows);
  if (!state.ok()) return 5;
  const std::vector<int32_t> tokens(kRows, 7);
  std::vector<float> logits(static_cast<size_t>(4 * (*model)->config().vocab_size));
  const SequenceRun run{&*state, tokens, kRows - 4};
  (*model)->Forward({&run, 1}, absl::MakeSpan(logits));

  const int64_t taken = StatusBytes("VmHWM") - before - budget.used();
  std::fprintf(stderr, "planned %.1f MiB, taken %.1f MiB\n", planned / 1048576.0, taken / 1048576.0);
  // Far less would mean that the plan counts what nobody uses.
  return taken > planned + kMargin ? 6 : taken < planned / 2 ? 7 : 0;
}

// gcc says it with macros, clang with a feature.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BATON_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BATON_SANITIZED 1
#endif
#endif

TEST_P(MemoryTest, TakesWhatWasPlanned) {
#ifdef BATON_SANITIZED
  GTEST_SKIP() << "sanitizers take memory of their own";
#endif
  const auto& [dtype, weights, cached] = GetParam();
  // With a cache: first the one that packs, then one that finds the file.
  for (int run = 0; run < (cached ? 2 : 1); ++run) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(LoadAndCompute(CheckpointDirectory(dtype), weights, cached ? CacheDirectory() : ""));
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 0) << "run " << run;
  }
}

INSTANTIATE_TEST_SUITE_P(All, MemoryTest,
                         testing::Combine(testing::Values(TensorType::kF32, TensorType::kBF16),
                                          testing::Values(WeightPrecision::kF32, WeightPrecision::kBf16,
                                                          WeightPrecision::kInt8, WeightPrecision::kInt4),
                                          testing::Bool()),
                         [](const auto& info) {
                           return absl::StrCat(TensorTypeName(std::get<0>(info.param)), "_as_",
                                               WeightPrecisionName(std::get<1>(info.param)),
                                               std::get<2>(info.param) ? "_cached" : "");
                         });

}  // namespace
}  // namespace baton
