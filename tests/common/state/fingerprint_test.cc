#include "common/state/fingerprint.h"

#include <gtest/gtest.h>

#include <string>

namespace baton {
namespace {

template <typename... Items>
Fingerprint Of(const Items&... items) {
  FingerprintBuilder builder;
  (builder.Add(items), ...);
  return builder.Finish();
}

TEST(FingerprintTest, SameItemsSameFingerprint) { EXPECT_EQ(Of("abc", int64_t{7}), Of("abc", int64_t{7})); }

TEST(FingerprintTest, NeverChangesBetweenReleases) {
  // Workers of different builds compare fingerprints.
  EXPECT_EQ(Of("gemma2", int64_t{26}).ToHex(), "57adf4c2f686338556517219c051c932b88b110d793eacb35670b041012d287c");
}

TEST(FingerprintTest, TellsItemsApart) {
  EXPECT_FALSE(Of("ab", "c") == Of("a", "bc"));
  EXPECT_FALSE(Of("ab") == Of("ab", ""));
  EXPECT_FALSE(Of("a", "b") == Of("b", "a"));
  EXPECT_FALSE(Of(int64_t{1}) == Of(int64_t{2}));
  // The same bytes as a number and as a text.
  EXPECT_FALSE(Of(int64_t{0}) == Of(absl::string_view("\0\0\0\0\0\0\0\0", 8)));
  EXPECT_FALSE(Of(int64_t{0}) == Of(""));
}

TEST(FingerprintTest, HalvesAreIndependent) {
  const std::string hex = Of("x").ToHex();
  ASSERT_EQ(hex.size(), 64u);
  EXPECT_NE(hex.substr(0, 32), hex.substr(32));
}

TEST(FingerprintTest, FinishCanBeFollowedByMore) {
  FingerprintBuilder builder;
  builder.Add("a");
  EXPECT_EQ(builder.Finish(), Of("a"));
  builder.Add("b");
  EXPECT_EQ(builder.Finish(), Of("a", "b"));
}

TEST(FingerprintTest, BytesRoundTrip) {
  const Fingerprint original = Of("x");
  Fingerprint copy;
  ASSERT_TRUE(Fingerprint::FromBytes(original.ToBytes(), &copy));
  EXPECT_EQ(copy, original);
}

TEST(FingerprintTest, WrongSizesAreRefused) {
  Fingerprint out;
  EXPECT_FALSE(Fingerprint::FromBytes("", &out));
  EXPECT_FALSE(Fingerprint::FromBytes(std::string(31, 'x'), &out));
  EXPECT_FALSE(Fingerprint::FromBytes(std::string(33, 'x'), &out));
  EXPECT_EQ(out, Fingerprint());
}

}  // namespace
}  // namespace baton
