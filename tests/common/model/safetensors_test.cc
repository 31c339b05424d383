#include "common/model/safetensors_file.h"

#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/common/model/checkpoint_files.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

TEST(SafetensorsTest, ReadsTensorsByOffsetAndName) {
  const std::string bytes = SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},
          "b":{"dtype":"I32","shape":[2],"data_offsets":[6,14]},
          "none":{"dtype":"F32","shape":[0,7],"data_offsets":[6,6]},
          "scalar":{"dtype":"F16","shape":[],"data_offsets":[4,6]},
          "a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}   )",
      FloatBytes({1.5f}) + std::string("\x00\xC0", 2) + std::string("\x07\0\0\0\xFF\xFF\xFF\xFF", 8));
  const auto file = SafetensorsFile::Parse(bytes, "f");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_EQ(file->tensors()[1].name, "scalar");
  EXPECT_EQ(file->tensors()[2].name, "none");
  EXPECT_EQ(file->tensors()[3].name, "b");
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->Find("absent"), nullptr);
  EXPECT_EQ(file->Find("none")->elements(), 0);
  EXPECT_EQ(file->Find("a")->shape, (std::vector<int64_t>{1, 1}));

  float value = 0;
  file->Find("a")->ToFloat(0, absl::MakeSpan(&value, 1));
  EXPECT_EQ(value, 1.5f);
  file->Find("scalar")->ToFloat(0, absl::MakeSpan(&value, 1));
  EXPECT_EQ(value, -2.0f);
  std::vector<float> two(2);
  file->Find("b")->ToFloat(0, absl::MakeSpan(two));
  EXPECT_EQ(two, (std::vector<float>{7, -1}));
}

struct Malformed {
  std::string what;
  std::string header;
  size_t data_bytes;
  std::string message;
};

void PrintTo(const Malformed& malformed, std::ostream* out) { *out << malformed.what; }

class MalformedSafetensorsTest : public testing::TestWithParam<Malformed> {};

TEST_P(MalformedSafetensorsTest, IsRefusedByName) {
  const auto file = SafetensorsFile::Parse(
      SafetensorsBytes(GetParam().header, std::string(GetParam().data_bytes, '\1')), "dir/x.safetensors");
  ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("dir/x.safetensors"));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(GetParam().message));
}

std::string OneTensor(absl::string_view fields) { return absl::StrCat(R"({"t":{)", fields, "}}"); }

INSTANTIATE_TEST_SUITE_P(
    Table, MalformedSafetensorsTest,
    testing::Values(
        Malformed{"EmptyHeader", "", 0, "not valid JSON"}, Malformed{"NotJson", "{\"t\":", 0, "not valid JSON"},
        Malformed{"NotUtf8", "{\"\xFF\":1}", 0, "not valid JSON"},
        Malformed{"TrailingText", "{} {}", 0, "not valid JSON"}, Malformed{"NotAnObject", "[1]", 0, "JSON object"},
        Malformed{"TensorIsNumber", R"({"t":3})", 0, "tensor \"t\": is a number"},
        Malformed{"SameNameTwice",
                  R"({"t":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
                      "t":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
                  4, "key \"t\" twice"},
        Malformed{"SameFieldTwice", OneTensor(R"("dtype":"F32","dtype":"F32")"), 0, "key \"dtype\" twice"},
        Malformed{"Deep", std::string(100'000, '[') + std::string(100'000, ']'), 0, "levels deep"},
        Malformed{"DeepObjects", OneTensor(R"("x":)" + std::string(40, '[') + std::string(40, ']')), 0, "levels deep"},
        Malformed{"NoType", OneTensor(R"("shape":[1],"data_offsets":[0,4])"), 4, "dtype is missing"},
        Malformed{"TypeIsNumber", OneTensor(R"("dtype":1,"shape":[1],"data_offsets":[0,4])"), 4, "expected a string"},
        Malformed{"UnknownType", OneTensor(R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4])"), 4,
                  "dtype is \"F8_E4M3\", expected BF16, F16, F32"},
        Malformed{"NoShape", OneTensor(R"("dtype":"F32","data_offsets":[0,4])"), 4, "shape is missing"},
        Malformed{"ShapeIsNumber", OneTensor(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4, "expected a list"},
        Malformed{"NegativeDimension", OneTensor(R"("dtype":"F32","shape":[-1,-1],"data_offsets":[0,4])"), 4,
                  "expected integers >= 0"},
        Malformed{"FractionalDimension", OneTensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4,
                  "expected integers >= 0"},
        Malformed{"HugeDimension", OneTensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), 4,
                  "expected integers >= 0"},
        Malformed{"ShapeOverflows", OneTensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
                  0, "more than 2^63 bytes"},
        Malformed{"TooManyDimensions", OneTensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"),
                  4, "at most 8"},
        Malformed{"NoOffsets", OneTensor(R"("dtype":"F32","shape":[1])"), 4, "data_offsets is missing"},
        Malformed{"OneOffset", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4, "fewer than 2"},
        Malformed{"ThreeOffsets", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), 4, "at most 2"},
        Malformed{"NegativeOffset", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])"), 4,
                  "expected integers >= 0"},
        Malformed{"Backwards", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4, "run backwards"},
        Malformed{"OutOfRange", OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), 4,
                  "end at 8, but the file holds only 4 bytes"},
        Malformed{"SizeContradictsShape", OneTensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8,
                  "shape [3] of F32 takes 12 bytes, but data_offsets span 8"},
        Malformed{"Overlap",
                  R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                      "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                  12, "tensor \"b\" begins at 4 and overlaps \"a\", which ends at 8"},
        Malformed{"SameBytesTwice",
                  R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                      "b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                  4, "overlaps"},
        Malformed{"EmptyTensorInsideAnother",
                  R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                      "b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
                  8, "overlaps"},
        Malformed{"HoleAtBegin", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8,
                  "bytes 0 to 4 before tensor \"t\" belong to no tensor"},
        Malformed{"HoleBetween",
                  R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                      "b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                  12, "bytes 4 to 8"},
        Malformed{"HoleAtEnd", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 5,
                  "last tensor ends at 4, but the file holds 5"},
        Malformed{"MetadataIsList", R"({"__metadata__":[]})", 0, "__metadata__"},
        Malformed{"MetadataHoldsNumber", R"({"__metadata__":{"format":1}})", 0, "\"format\" is a number"}),
    [](const auto& info) { return info.param.what; });

TEST(SafetensorsTest, NamesInMessagesCantForgeTerminalOutput) {
  const auto file = SafetensorsFile::Parse(SafetensorsBytes(R"({"\u001b[2J\n":1})", ""), "f");
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(R"("\x1b[2J\n")"));
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string bytes = SafetensorsBytes({{"a", "F32", {2}, FloatBytes({1, 2})}, {"b", "BF16", {1}, "xy"}});
  ASSERT_TRUE(SafetensorsFile::Parse(bytes, "f").ok());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto file = SafetensorsFile::Parse(absl::string_view(bytes).substr(0, size), "f");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

TEST(SafetensorsTest, AbsurdHeaderLengthsAreRefused) {
  for (const uint64_t length : {uint64_t{3}, uint64_t{1000}, kMaxSafetensorsHeaderBytes, kMaxSafetensorsHeaderBytes + 1,
                                std::numeric_limits<uint64_t>::max(), std::numeric_limits<uint64_t>::max() - 7}) {
    std::string bytes = SafetensorsBytes("{}", "");
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
    const auto file = SafetensorsFile::Parse(bytes, "f");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("header length is"));
  }
}

TEST(SafetensorsTest, OpenNamesWhatCantBeOpened) {
  const TemporaryDirectory directory;
  EXPECT_EQ(SafetensorsFile::Open(directory.File("absent")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(directory.path()).status().code(), absl::StatusCode::kInvalidArgument);
  directory.Write("empty", "");
  const auto empty = SafetensorsFile::Open(directory.File("empty"));
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr("empty"));
}

TEST(SafetensorsTest, TensorsOutliveMovesAndCopiesOfTheFile) {
  const TemporaryDirectory directory;
  directory.Write("f", SafetensorsBytes({{"a", "F32", {1}, FloatBytes({2.25f})}}));
  absl::StatusOr<SafetensorsFile> copy = absl::UnknownError("not yet");
  {
    auto file = SafetensorsFile::Open(directory.File("f"));
    ASSERT_TRUE(file.ok()) << file.status();
    copy = *file;
    const SafetensorsFile moved = *std::move(file);
  }
  float value = 0;
  copy->Find("a")->ToFloat(0, absl::MakeSpan(&value, 1));
  EXPECT_EQ(value, 2.25f);
}

TEST(SafetensorsTest, GoldenFilesOpen) {
  const auto file = SafetensorsFile::Open(BATON_TEST_DATA "/golden/gemma2-tiny.golden.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const TensorView* tokens = file->Find("p5.tokens");
  ASSERT_NE(tokens, nullptr);
  EXPECT_EQ(tokens->type, TensorType::kI32);
  EXPECT_EQ(tokens->elements(), 5);
  float first = 0;
  tokens->ToFloat(0, absl::MakeSpan(&first, 1));
  EXPECT_EQ(first, 2);  // bos
}

TensorView ViewOf(TensorType type, const std::string& bytes) {
  return {"t", type, {}, reinterpret_cast<const std::byte*>(bytes.data()), static_cast<int64_t>(bytes.size())};
}

// sign * significand * 2^exponent, by the definition of the format.
float HalfByDefinition(uint32_t half) {
  const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
  const int exponent = static_cast<int>((half >> 10) & 0x1F);
  const int mantissa = static_cast<int>(half & 0x3FF);
  if (exponent == 31) return mantissa != 0 ? std::nanf("") : sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

TEST(TensorViewTest, EveryHalfConvertsExactly) {
  std::string bytes;
  for (uint32_t half = 0; half < 65536; ++half) {
    bytes.push_back(static_cast<char>(half));
    bytes.push_back(static_cast<char>(half >> 8));
  }
  std::vector<float> values(65536);
  ViewOf(TensorType::kF16, bytes).ToFloat(0, absl::MakeSpan(values));
  for (uint32_t half = 0; half < 65536; ++half) {
    const float expected = HalfByDefinition(half);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(values[half])) << half;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(values[half]), std::bit_cast<uint32_t>(expected)) << half;
    }
  }
}

TEST(TensorViewTest, ReadsUnalignedPieces) {
  const std::string storage = "?" + FloatBytes({1, 2, 3, 4});
  const TensorView view{"t", TensorType::kF32, {4}, reinterpret_cast<const std::byte*>(storage.data()) + 1, 16};
  std::vector<float> middle(2);
  view.ToFloat(1, absl::MakeSpan(middle));
  EXPECT_EQ(middle, (std::vector<float>{2, 3}));

  const std::string halves = "?" + std::string("\x80\x3F\x00\xC0", 4);
  const TensorView bf16{"t", TensorType::kBF16, {2}, reinterpret_cast<const std::byte*>(halves.data()) + 1, 4};
  bf16.ToFloat(0, absl::MakeSpan(middle));
  EXPECT_EQ(middle, (std::vector<float>{1, -2}));
}

TEST(TensorViewDeathTest, ReadingBeyondTheEndIsACaughtMistake) {
  const std::string bytes = FloatBytes({1, 2});
  const TensorView view = ViewOf(TensorType::kF32, bytes);
  std::vector<float> two(2);
  EXPECT_DEATH(view.ToFloat(1, absl::MakeSpan(two)), "check failed");
}

}  // namespace
}  // namespace baton
