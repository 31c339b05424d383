#include "common/state/state_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "tests/common/state/test_states.h"

namespace baton {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// The published sizes of each model, and the smallest number of bytes that hold its live state at some lengths
// (2 · kv_heads · head_dim · 2 per KV layer and token; windows hold 4096 or 2048 tokens; RG-LRU float32, conv bf16).
struct ModelCase {
  std::string name;
  std::vector<LayerStateSpec> layers;
  // At 512, 2048, 8192, 32768 and 131072 tokens.
  std::vector<int64_t> live_bytes;
};

std::vector<LayerStateSpec> Repeat(int count, const std::vector<LayerStateSpec>& pattern) {
  std::vector<LayerStateSpec> layers;
  for (int i = 0; i < count; ++i) layers.push_back(pattern[i % pattern.size()]);
  return layers;
}

std::vector<ModelCase> Models() {
  const int64_t kGemma2Window = 4096;
  const int64_t kGriffinWindow = 2048 + 1;
  return {
      {"Gemma 2B", Repeat(18, {GlobalLayer(1, 256)}), {9'437'184, 37'748'736, 150'994'944, 603'979'776, 2'415'919'104}},
      {"Gemma 7B",
       Repeat(28, {GlobalLayer(16, 256)}),
       {234'881'024, 939'524'096, 3'758'096'384, 15'032'385'536, 60'129'542'144}},
      {"Gemma 2 2B",
       Repeat(26, {WindowLayer(4, 256, kGemma2Window), GlobalLayer(4, 256)}),
       {54'525'952, 218'103'808, 654'311'424, 1'962'934'272, 7'197'425'664}},
      {"Gemma 2 9B",
       Repeat(42, {WindowLayer(8, 256, kGemma2Window), GlobalLayer(8, 256)}),
       {176'160'768, 704'643'072, 2'113'929'216, 6'341'787'648, 23'253'221'376}},
      {"Gemma 2 27B",
       Repeat(46, {WindowLayer(16, 128, kGemma2Window), GlobalLayer(16, 128)}),
       {192'937'984, 771'751'936, 2'315'255'808, 6'945'767'424, 25'467'813'888}},
      {"RecurrentGemma 2B",
       Repeat(26, {RecurrentLayer(2560, 3), RecurrentLayer(2560, 3), WindowLayer(1, 256, kGriffinWindow)}),
       {4'655'104, 17'238'016, 17'238'016, 17'238'016, 17'238'016}},
      {"RecurrentGemma 9B",
       Repeat(38, {RecurrentLayer(4096, 3), RecurrentLayer(4096, 3), WindowLayer(1, 256, kGriffinWindow)}),
       {7'356'416, 26'230'784, 26'230'784, 26'230'784, 26'230'784}},
  };
}

int64_t PageBytesOf(const StateLayout& layout, LayerStateSpec::Kind kind) {
  int64_t bytes = 0;
  for (const LayerStateSpec& spec : layout.layers) bytes += spec.kind == kind ? layout.PageBytes(spec) : 0;
  return bytes;
}

TEST(StateLayoutTest, RealModelsTakeTheLiveMinimumAtWholePages) {
  const int64_t lengths[] = {512, 2048, 8192, 32768, 131072};
  for (const ModelCase& model : Models()) {
    auto layout = MakeLayout(model.layers, ElementType::kBF16, /*page_tokens=*/64);
    for (size_t i = 0; i < model.live_bytes.size(); ++i) {
      // A full window begins and ends within pages: one more.
      const int64_t extra = lengths[i] > 4096 ? PageBytesOf(*layout, LayerStateSpec::Kind::kWindowKv) : 0;
      EXPECT_EQ(layout->BytesFor(lengths[i]), model.live_bytes[i] + extra) << model.name << " at " << lengths[i];
    }
  }
}

TEST(StateLayoutTest, PagingAddsAtMostOnePagePerLayer) {
  for (const ModelCase& model : Models()) {
    auto layout = MakeLayout(model.layers, ElementType::kBF16, /*page_tokens=*/64);
    const int64_t global = PageBytesOf(*layout, LayerStateSpec::Kind::kGlobalKv);
    const int64_t window = PageBytesOf(*layout, LayerStateSpec::Kind::kWindowKv);
    EXPECT_EQ(layout->BytesFor(513), layout->BytesFor(512) + global + window) << model.name;
    EXPECT_EQ(layout->BytesFor(8193), layout->BytesFor(8192) + global) << model.name;
  }
}

TEST(StateLayoutTest, RecurrentGemmaStopsGrowing) {
  auto layout = MakeLayout(Models()[5].layers, ElementType::kBF16, 64);
  EXPECT_EQ(layout->BytesFor(2049), layout->BytesFor(1 << 30));
  EXPECT_LT(layout->BytesFor(2048), layout->BytesFor(2049));
}

// Against every run at every position, counted page by page.
TEST(StateLayoutTest, AWindowKeepsThePagesItsWorstRunTouches) {
  for (const int page_tokens : {1, 2, 5, 8}) {
    for (int64_t visible = 1; visible <= 18; ++visible) {
      const LayerStateSpec window = WindowLayer(1, 4, visible);
      for (int run = 1; run <= 18; ++run) {
        auto layout = MakeLayout({window}, ElementType::kBF16, page_tokens, run);
        for (int64_t max_tokens = 1; max_tokens <= 60; ++max_tokens) {
          int64_t worst = 0;
          for (int64_t position = 0; position < max_tokens; ++position) {
            const int64_t first = layout->FirstNeededPosition(window, position);
            const int64_t last = std::min<int64_t>(position + run, max_tokens) - 1;
            worst = std::max(worst, last / page_tokens - first / page_tokens + 1);
          }
          ASSERT_EQ(layout->KvPages(window, max_tokens), worst)
              << page_tokens << " " << visible << " " << run << " " << max_tokens;
        }
        EXPECT_EQ(layout->KvPages(window, 0), 0);
        EXPECT_EQ(layout->KvPages(window, -5), 0);
      }
    }
  }
}

TEST(StateLayoutTest, ElementsAndRecurrentVectors) {
  auto bf16 = MakeLayout({RecurrentLayer(64, 3)}, ElementType::kBF16);
  EXPECT_EQ(bf16->BytesFor(1), 64 * 4 + 3 * 64 * 2);
  auto f32 = MakeLayout({RecurrentLayer(64, 3)}, ElementType::kF32);
  EXPECT_EQ(f32->BytesFor(1), 64 * 4 + 3 * 64 * 4);
  EXPECT_EQ(f32->BytesFor(1'000'000), f32->BytesFor(1));
}

TEST(StateLayoutTest, PagesAreWholeCacheLines) {
  auto layout = MakeLayout({GlobalLayer(1, 3), WindowLayer(1, 3, 5), RecurrentLayer(5, 3)}, ElementType::kBF16, 7);
  EXPECT_EQ(layout->PageBytes(layout->layers[0]), 128);       // 2 * 7 * 3 * 2 = 84
  EXPECT_EQ(layout->LayerBytes(layout->layers[0], 8), 256);   // two pages
  EXPECT_EQ(layout->LayerBytes(layout->layers[1], 99), 256);  // five positions touch two pages
  EXPECT_EQ(layout->LayerBytes(layout->layers[2], 99), 64);   // 5 * 4 + 3 * 5 * 2 = 50
  EXPECT_EQ(layout->BytesFor(8), 256 + 256 + 64);
}

TEST(StateLayoutTest, AbsurdLengthsSaturateInsteadOfWrapping) {
  auto layout = MakeLayout(Models()[2].layers, ElementType::kBF16, 64);
  for (int64_t tokens : {kMax, kMax - 1, kMax - 63, kMax / 2, kMax / 4096, int64_t{1} << 52}) {
    EXPECT_EQ(layout->BytesFor(tokens), kMax) << tokens;
  }
  int64_t before = 0;
  for (int shift = 0; shift < 63; ++shift) {
    const int64_t bytes = layout->BytesFor(int64_t{1} << shift);
    EXPECT_GE(bytes, before) << shift;
    before = bytes;
  }
}

TEST(StateLayoutTest, NoTokensNoKv) {
  auto layout = MakeLayout({GlobalLayer(1, 32), WindowLayer(1, 32, 5)});
  EXPECT_EQ(layout->BytesFor(0), 0);
  EXPECT_EQ(layout->BytesFor(-1), 0);
  EXPECT_EQ(layout->BytesFor(std::numeric_limits<int64_t>::min()), 0);
}

TEST(StateLayoutTest, WhatADecoderStillNeeds) {
  auto layout = MakeLayout({GlobalLayer(1, 4), WindowLayer(1, 4, 5)});
  EXPECT_EQ(layout->FirstNeededPosition(layout->layers[0], 100), 0);
  EXPECT_EQ(layout->FirstNeededPosition(layout->layers[1], 100), 96);
  EXPECT_EQ(layout->FirstNeededPosition(layout->layers[1], 4), 0);
  EXPECT_EQ(layout->FirstNeededPosition(layout->layers[1], 5), 1);
}

}  // namespace
}  // namespace baton
