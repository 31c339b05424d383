#include "bench/model_costs.h"

#include <string>

#include <gtest/gtest.h>

#include "common/model/synth.h"

namespace baton {
namespace {

ModelConfig Preset(const std::string& name) {
  for (const SynthPreset& preset : SynthPresets()) {
    if (preset.name == name) return *ParseModelConfig(preset.config_text, name, {.deepmind_window = false});
  }
  ADD_FAILURE() << "no preset " << name;
  return {};
}

// Figures computed independently from the published configs, rounded to MFLOP.
struct Flops {
  std::string preset;
  double linear;   // GFLOP per token
  double head;     // GFLOP, once
  double total2k;  // GFLOP per token of a prompt of 2048, head left out
  double total8k;  // the same of 8192
};

constexpr double kHalfMega = 0.0006;

TEST(ModelCostsTest, FlopsOfThePublishedModels) {
  const Flops table[] = {
      {"gemma-2b", 3.964, 1.049, 4.115, 4.568},
      {"gemma-7b", 15.502, 1.573, 15.972, 17.382},
      {"gemma-2-2b", 4.049, 1.180, 4.267, 4.812},
      {"gemma-2-9b", 16.648, 1.835, 17.353, 19.115},
      {"gemma-2-27b", 52.095, 2.359, 52.867, 54.796},
      {"recurrentgemma-2b", 4.055, 1.311, 4.139, 4.202},
      {"recurrentgemma-9b", 15.063, 2.097, 15.264, 15.415},
  };
  for (const Flops& flops : table) {
    SCOPED_TRACE(flops.preset);
    const ModelConfig config = Preset(flops.preset);
    const double head = 2e-9 * static_cast<double>(config.vocab_size) * config.hidden_size;
    EXPECT_NEAR(head, flops.head, kHalfMega);
    EXPECT_NEAR(2e-9 * static_cast<double>(NonEmbeddingParameters(config)), flops.linear, kHalfMega);
    EXPECT_NEAR((PrefillFlops(config, 2048) * 1e-9 - head) / 2048, flops.total2k, kHalfMega);
    EXPECT_NEAR((PrefillFlops(config, 8192) * 1e-9 - head) / 8192, flops.total8k, kHalfMega);
    const double keys = static_cast<double>(VisibleKeys(config, 99));
    EXPECT_NEAR(DecodeFlops(config, 99) * 1e-9,
                flops.linear + flops.head + 4e-9 * static_cast<double>(config.QueryWidth()) * keys, 2 * kHalfMega);
  }
}

TEST(ModelCostsTest, StateBytesOfThePublishedModels) {
  struct Bytes {
    std::string preset;
    int64_t at_512;
    int64_t at_2048;
    int64_t at_8192;
  };
  const Bytes table[] = {
      {"gemma-2b", 9'437'184, 37'748'736, 150'994'944},
      {"gemma-7b", 234'881'024, 939'524'096, 3'758'096'384},
      {"gemma-2-2b", 54'525'952, 218'103'808, 654'311'424},
      {"gemma-2-9b", 176'160'768, 704'643'072, 2'113'929'216},
      {"gemma-2-27b", 192'937'984, 771'751'936, 2'315'255'808},
      {"recurrentgemma-2b", 4'655'104, 17'238'016, 17'238'016},
      {"recurrentgemma-9b", 7'356'416, 26'230'784, 26'230'784},
  };
  for (const Bytes& bytes : table) {
    SCOPED_TRACE(bytes.preset);
    const ModelConfig config = Preset(bytes.preset);
    EXPECT_EQ(StateReadBytes(config, 511, 2), bytes.at_512);
    EXPECT_EQ(StateReadBytes(config, 2047, 2), bytes.at_2048);
    EXPECT_EQ(StateReadBytes(config, 8191, 2), bytes.at_8192);
  }
}

TEST(ModelCostsTest, WindowsCapWhatIsSeen) {
  const ModelConfig config = Preset("gemma-2-2b");
  EXPECT_EQ(VisibleKeys(config, 0), 26);
  EXPECT_EQ(VisibleKeys(config, 4095), 26 * 4096);
  EXPECT_EQ(VisibleKeys(config, 4096), 13 * 4096 + 13 * 4097);
}

}  // namespace
}  // namespace baton
