// The cache of packed weights, through Model::Load: what is kept, what is noticed, what happens when it can't be used.
#include "common/model/weight_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/mapped_file.h"
#include "common/model/model.h"
#include "common/model/synth.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class WeightCacheTest : public testing::Test {
 protected:
  void SetUp() override { WriteCheckpoint(1); }
  // A directory that nobody may write to can't be removed either.
  void TearDown() override {
    std::error_code ignored;
    fs::permissions(cache_, fs::perms::owner_all, ignored);
  }

  // Over what is there.
  void WriteCheckpoint(uint64_t seed) {
    SynthOptions options;
    options.config_text = *ReadFile(BATON_TEST_DATA "/golden/recurrentgemma-tiny/config.json");
    options.seed = seed;
    options.out = checkpoint();
    options.threads = 1;
    options.force = true;
    const auto written = WriteSyntheticCheckpoint(options);
    ASSERT_TRUE(written.ok()) << written.status();
  }

  std::string checkpoint() const { return directory_.File("model"); }
  std::string WeightsFile() const { return checkpoint() + "/model.safetensors"; }

  ModelOptions Options(WeightPrecision weights = WeightPrecision::kInt8) {
    ModelOptions options;
    options.weights = weights;
    options.threads = 2;
    options.cache_dir = cache_;
    options.observer.notice = [this](const LoadNotice& notice) {
      notices_.push_back(absl::StrCat(notice.event, ": ", notice.text));
    };
    return options;
  }

  std::unique_ptr<Model> Load(WeightPrecision weights = WeightPrecision::kInt8) {
    notices_.clear();
    absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(checkpoint(), Options(weights));
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  // Logits of a few tokens: they depend on every matrix.
  static std::vector<float> Logits(Model& model) {
    MemoryBudget budget(1 << 26);
    absl::StatusOr<SequenceState> state = SequenceState::Create(model.MakeStateLayout(8), budget, 8);
    EXPECT_TRUE(state.ok());
    const std::vector<int32_t> tokens = {2, 17, 400, 3};
    std::vector<float> logits(static_cast<size_t>(model.config().vocab_size));
    const SequenceRun run{&*state, tokens, 3};
    model.Forward({&run, 1}, absl::MakeSpan(logits));
    return logits;
  }

  std::vector<float> LogitsWithoutCache(WeightPrecision weights = WeightPrecision::kInt8) {
    ModelOptions options = Options(weights);
    options.cache_dir.clear();
    auto model = Model::Load(checkpoint(), options);
    EXPECT_TRUE(model.ok()) << model.status();
    return Logits(**model);
  }

  // Names in the cache directory that end with `suffix`.
  std::vector<std::string> Files(absl::string_view suffix) const {
    std::vector<std::string> files;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(cache_, ignored)) {
      if (absl::EndsWith(entry.path().string(), suffix)) files.push_back(entry.path().string());
    }
    return files;
  }
  std::string CacheFile() const {
    const std::vector<std::string> files = Files(".weights");
    EXPECT_EQ(files.size(), 1u);
    return files.empty() ? "" : files.front();
  }

  static void FlipByte(const std::string& path, int64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const char byte = static_cast<char>(file.get() ^ 0x40);
    file.seekp(at);
    file.put(byte);
    ASSERT_TRUE(file.good());
  }

  bool Packed() const { return !NoticesOf("packing_weights").empty(); }
  std::vector<std::string> NoticesOf(absl::string_view event) const {
    std::vector<std::string> found;
    for (const std::string& notice : notices_) {
      if (absl::StartsWith(notice, absl::StrCat(event, ":"))) found.push_back(notice);
    }
    return found;
  }

  const TemporaryDirectory directory_;
  std::string cache_ = directory_.File("made/when/needed");
  std::vector<std::string> notices_;
};

TEST_F(WeightCacheTest, PacksOnceAndMapsAfterwards) {
  for (const WeightPrecision weights :
       {WeightPrecision::kBf16, WeightPrecision::kInt8, WeightPrecision::kInt4, WeightPrecision::kInt8A8}) {
    const std::vector<float> want = LogitsWithoutCache(weights);
    EXPECT_EQ(Logits(*Load(weights)), want);
    EXPECT_TRUE(Packed());
    EXPECT_EQ(Logits(*Load(weights)), want);
    EXPECT_FALSE(Packed());
    EXPECT_EQ(NoticesOf("weights_mapped").size(), 1u);
  }
  EXPECT_EQ(Files(".weights").size(), 4u) << "one per precision";
  EXPECT_THAT(Files(".tmp"), IsEmpty());
}

TEST_F(WeightCacheTest, FloatWeightsAreUsedWhereTheyAre) {
  SynthOptions options;
  options.config_text = *ReadFile(BATON_TEST_DATA "/golden/gemma2-tiny/config.json");
  options.out = checkpoint();
  options.dtype = TensorType::kF32;
  options.force = true;
  ASSERT_TRUE(WriteSyntheticCheckpoint(options).ok());
  const std::vector<float> want = LogitsWithoutCache(WeightPrecision::kF32);
  EXPECT_EQ(Logits(*Load(WeightPrecision::kF32)), want);
  EXPECT_FALSE(fs::exists(cache_)) << "nothing needed packing";
}

TEST_F(WeightCacheTest, ADamagedPayloadIsMadeAnew) {
  const std::vector<float> want = Logits(*Load());
  for (const int64_t from_end : {1, 5000}) {
    const std::string file = CacheFile();
    FlipByte(file, static_cast<int64_t>(fs::file_size(file)) - from_end);
    EXPECT_EQ(Logits(*Load()), want);
    EXPECT_THAT(NoticesOf("weight_cache_unusable"), ElementsAre(HasSubstr("checksum of section")));
    EXPECT_TRUE(Packed());
  }
  EXPECT_EQ(Logits(*Load()), want);
  EXPECT_FALSE(Packed());
}

TEST_F(WeightCacheTest, ADamagedHeadIsMadeAnew) {
  const std::vector<float> want = Logits(*Load());
  for (const int64_t at : {0, 20, 50, 300}) {
    FlipByte(CacheFile(), at);
    EXPECT_EQ(Logits(*Load()), want) << at;
    EXPECT_EQ(NoticesOf("weight_cache_unusable").size(), 1u) << at;
  }
}

TEST_F(WeightCacheTest, ATruncatedFileIsMadeAnew) {
  const std::vector<float> want = Logits(*Load());
  const auto whole = static_cast<int64_t>(fs::file_size(CacheFile()));
  for (const int64_t size : {int64_t{0}, int64_t{10}, int64_t{4096}, whole - 1}) {
    fs::resize_file(CacheFile(), size);
    EXPECT_EQ(Logits(*Load()), want) << size;
    EXPECT_TRUE(Packed()) << size;
  }
}

TEST_F(WeightCacheTest, AnotherVersionIsMadeAnew) {
  const std::vector<float> want = Logits(*Load());
  FlipByte(CacheFile(), 12);
  EXPECT_EQ(Logits(*Load()), want);
  EXPECT_THAT(NoticesOf("weight_cache_unusable"), ElementsAre(HasSubstr("layout version")));
}

TEST_F(WeightCacheTest, AnotherModelsFileIsMadeAnew) {
  Load();
  const std::string first = CacheFile();
  WriteCheckpoint(2);
  const std::vector<float> want = LogitsWithoutCache();
  Load();
  std::vector<std::string> files = Files(".weights");
  ASSERT_EQ(files.size(), 2u) << "another checkpoint, another file";
  const std::string second = files[0] == first ? files[1] : files[0];
  fs::copy_file(first, second, fs::copy_options::overwrite_existing);
  EXPECT_EQ(Logits(*Load()), want);
  EXPECT_THAT(NoticesOf("weight_cache_unusable"), ElementsAre(HasSubstr("another checkpoint")));
}

// The content hash samples large tensors: a change between the samples must not go unnoticed.
TEST_F(WeightCacheTest, ACheckpointChangedInPlaceIsPackedAnew) {
  Load();
  const auto opened = Checkpoint::Open(checkpoint());
  ASSERT_TRUE(opened.ok());
  const std::string hash = opened->ContentHash();
  const auto tensor = opened->Find("model.embed_tokens.weight", {512, 96});
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  const auto file = MappedFile::Open(WeightsFile());
  ASSERT_TRUE(file.ok());
  // The tensor's place in the file, by its contents.
  const absl::string_view bytes(reinterpret_cast<const char*>(tensor->data), static_cast<size_t>(tensor->bytes));
  const size_t at = file->view().find(bytes);
  ASSERT_NE(at, absl::string_view::npos);
  int64_t unsampled = -1;
  for (int64_t offset = 4097; offset < tensor->bytes && unsampled < 0; offset += 512) {
    FlipByte(WeightsFile(), static_cast<int64_t>(at) + offset);
    if (Checkpoint::Open(checkpoint())->ContentHash() == hash) {
      unsampled = offset;
    } else {
      FlipByte(WeightsFile(), static_cast<int64_t>(at) + offset);
    }
  }
  ASSERT_GE(unsampled, 0) << "every byte is sampled: the test needs a larger tensor";
  const std::vector<float> want = LogitsWithoutCache();
  EXPECT_EQ(Logits(*Load()), want);
  EXPECT_THAT(NoticesOf("weight_cache_unusable"), ElementsAre(HasSubstr("has changed since")));
}

TEST_F(WeightCacheTest, ATouchedFileIsCheckedAndKept) {
  Load();
  fs::last_write_time(CacheFile(), fs::file_time_type::clock::now() + std::chrono::hours(1));
  fs::last_write_time(WeightsFile(), fs::file_time_type::clock::now() + std::chrono::hours(1));
  std::vector<std::pair<int64_t, int64_t>> progress;
  ModelOptions options = Options();
  options.observer.progress = [&](int64_t done, int64_t total) { progress.emplace_back(done, total); };
  notices_.clear();
  ASSERT_TRUE(Model::Load(checkpoint(), options).ok());
  EXPECT_FALSE(Packed());
  ASSERT_FALSE(progress.empty()) << "contents were to be read";
  EXPECT_EQ(progress.back().first, progress.back().second);
  progress.clear();
  ASSERT_TRUE(Model::Load(checkpoint(), options).ok());
  EXPECT_THAT(progress, IsEmpty()) << "the check should have been remembered";
}

TEST_F(WeightCacheTest, UnusableDirectoriesMeanMemory) {
  const std::vector<float> want = LogitsWithoutCache();
  directory_.Write("file", "in the way");
  cache_ = directory_.File("file/cache");
  EXPECT_EQ(Logits(*Load()), want);
  EXPECT_THAT(NoticesOf("weight_cache_failed"), ElementsAre(AllOf(HasSubstr(cache_), HasSubstr("--cache-dir"))));
  cache_ = "/proc/baton";
  EXPECT_EQ(Logits(*Load()), want);
  EXPECT_EQ(NoticesOf("weight_cache_failed").size(), 1u);
}

TEST_F(WeightCacheTest, AFullDiskMeansMemory) {
  const std::vector<float> want = LogitsWithoutCache();
  // A limit on file sizes is the full disk that a test can make. In a child: it can't be taken back.
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    const std::unique_ptr<Model> model = Load();
    const bool fine =
        model != nullptr && Logits(*model) == want && NoticesOf("weight_cache_failed").size() == 1 && Files("").empty();
    _exit(fine ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(WeightCacheTest, LeftoversOfTheDeadAreRemoved) {
  fs::create_directories(cache_);
  std::ofstream(cache_ + "/0123-int8-v1.weights.tmp") << "half a file";
  std::ofstream(cache_ + "/notes.txt") << "not ours";
  // Somebody is still at work on this one.
  const std::string held = cache_ + "/4567-int4-v1.weights.tmp";
  const FileDescriptor file(open(held.c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_EQ(flock(file.get(), LOCK_EX), 0);
  Load();
  EXPECT_THAT(Files(".tmp"), ElementsAre(held));
  EXPECT_TRUE(fs::exists(cache_ + "/notes.txt"));
}

TEST_F(WeightCacheTest, AHalfWrittenFileOfTheSameWeightsIsWrittenAnew) {
  const std::vector<float> want = Logits(*Load());
  fs::rename(CacheFile(), CacheFile() + ".tmp");
  fs::resize_file(Files(".tmp").front(), 3 << 20);
  EXPECT_EQ(Logits(*Load()), want);
  EXPECT_TRUE(Packed());
  EXPECT_THAT(Files(".tmp"), IsEmpty());
}

TEST_F(WeightCacheTest, OfSeveralAtOnceOnePacksAndAllMapTheSame) {
  const std::vector<float> want = LogitsWithoutCache();
  constexpr int kLoaders = 4;
  std::atomic<int> packed{0};
  std::atomic<int> right{0};
  std::vector<std::thread> loaders;
  for (int i = 0; i < kLoaders; ++i) {
    loaders.emplace_back([&] {
      ModelOptions options = Options();
      options.threads = 1;
      options.observer.notice = [&](const LoadNotice& notice) { packed += notice.event == "packing_weights" ? 1 : 0; };
      const auto model = Model::Load(checkpoint(), options);
      right += model.ok() && Logits(**model) == want ? 1 : 0;
    });
  }
  for (std::thread& loader : loaders) loader.join();
  EXPECT_EQ(packed, 1);
  EXPECT_EQ(right, kLoaders);
  EXPECT_THAT(Files(".tmp"), IsEmpty());
}

TEST_F(WeightCacheTest, WhoWaitsIsTold) {
  Load();
  const std::string temporary = CacheFile() + ".tmp";
  fs::remove(CacheFile());
  FileDescriptor holder(open(temporary.c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  ModelOptions options = Options();
  // The holder dies once somebody waits.
  options.observer.notice = [&](const LoadNotice& notice) {
    notices_.push_back(notice.event);
    if (notice.event == "waiting_for_weights") holder = FileDescriptor();
  };
  notices_.clear();
  ASSERT_TRUE(Model::Load(checkpoint(), options).ok());
  EXPECT_THAT(notices_, ElementsAre("waiting_for_weights", "packing_weights", "weights_packed", "weights_mapped"));
}

TEST_F(WeightCacheTest, LoadingCanBeCalledOff) {
  ModelOptions options = Options();
  options.observer.cancelled = [] { return true; };
  EXPECT_EQ(Model::Load(checkpoint(), options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(Files(".tmp"), IsEmpty());
  options.cache_dir.clear();
  EXPECT_EQ(Model::Load(checkpoint(), options).status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace baton
