#include "common/base/bytes.h"

#include "gtest/gtest.h"

namespace baton {
namespace {

TEST(BytesTest, Parses) {
  const struct {
    const char* text;
    int64_t bytes;
  } cases[] = {{"0", 0},           {"4096", 4096},      {"1K", 1024},          {"512MiB", 512LL << 20},
               {"2GB", 2LL << 30}, {"1.5g", 3LL << 29}, {" 2 GiB", 2LL << 30}, {"3TiB", 3LL << 40},
               {"7b", 7}};
  for (const auto& c : cases) {
    const auto parsed = ParseBytes(c.text);
    ASSERT_TRUE(parsed.ok()) << c.text << ": " << parsed.status();
    EXPECT_EQ(*parsed, c.bytes) << c.text;
  }
}

TEST(BytesTest, RefusesWhatIsNotAByteCount) {
  for (const char* text : {"", "GiB", "-1", "1X", "1GiBs", "1e9", "1.2.3", "99999999999T", "nan"}) {
    const auto parsed = ParseBytes(text);
    EXPECT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(BytesTest, Formats) {
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(17238016), "16.4 MiB");
  EXPECT_EQ(FormatBytes(5LL << 40), "5.0 TiB");
}

}  // namespace
}  // namespace baton
