#include "common/state/prefix_chain.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

namespace baton {
namespace {

std::vector<int32_t> Tokens(int count, int32_t first = 0) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(PrefixChainTest, NamesWholeBlocks) {
  EXPECT_EQ(PrefixChain("f", "", "", Tokens(0)).size(), 0u);
  EXPECT_EQ(PrefixChain("f", "", "", Tokens(63)).size(), 0u);
  EXPECT_EQ(PrefixChain("f", "", "", Tokens(64)).size(), 1u);
  EXPECT_EQ(PrefixChain("f", "", "", Tokens(129)).size(), 2u);
}

TEST(PrefixChainTest, EqualBeginningsHaveEqualNames) {
  std::vector<int32_t> other = Tokens(200);
  other[130] = 7;
  const auto a = PrefixChain("f", "", "", Tokens(192));
  const auto b = PrefixChain("f", "", "", other);
  EXPECT_TRUE(a[0] == b[0]);
  EXPECT_TRUE(a[1] == b[1]);
  EXPECT_FALSE(a[2] == b[2]);
}

TEST(PrefixChainTest, ABlockIsNamedByAllThatComesBefore) {
  std::vector<int32_t> other = Tokens(192);
  other[0] = 7;
  const auto a = PrefixChain("f", "", "", Tokens(192));
  const auto b = PrefixChain("f", "", "", other);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(a[i] == b[i]);
}

TEST(PrefixChainTest, ModelAdapterAndSaltKeepApart) {
  const std::vector<std::vector<std::string>> roots = {{"f", "", ""},  {"g", "", ""},   {"f", "a", ""},
                                                       {"f", "", "a"}, {"f", "aa", ""}, {"fa", "", ""}};
  for (size_t i = 0; i < roots.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(PrefixChain(roots[i][0], roots[i][1], roots[i][2], Tokens(64))[0] ==
                   PrefixChain(roots[j][0], roots[j][1], roots[j][2], Tokens(64))[0])
          << i << " " << j;
    }
  }
}

// Gateways and workers of different versions must agree.
TEST(PrefixChainTest, StaysAsItIs) {
  const auto chain = PrefixChain(std::string(32, 'f'), "", "salt", Tokens(128, 1000));
  EXPECT_EQ(chain[0].Short(), 15668603806850524115u);
  EXPECT_EQ(chain[1].Short(), 11943577158714673916u);
}

}  // namespace
}  // namespace baton
