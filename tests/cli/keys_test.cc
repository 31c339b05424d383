// Bytes of a terminal as keys.
#include "gateway/cli/keys.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

TEST(KeyDecoderTest, KeysAndTheirSequences) {
  KeyDecoder decoder;
  EXPECT_THAT(decoder.Decode("q\033[A\033OB x"), ElementsAre('q', kKeyUp, kKeyDown, ' ', 'x'));
  EXPECT_THAT(decoder.Decode("\033[5~\033[6~\033[1~\033[4~\033[H\033[F\033[C\033[D"),
              ElementsAre(kKeyPageUp, kKeyPageDown, kKeyHome, kKeyEnd, kKeyHome, kKeyEnd, kKeyRight, kKeyLeft));
  EXPECT_THAT(decoder.Decode("\033[1;5A"), ElementsAre(kKeyUp)) << "with Ctrl";
}

TEST(KeyDecoderTest, InPieces) {
  KeyDecoder decoder;
  EXPECT_THAT(decoder.Decode("\033"), ElementsAre());
  EXPECT_THAT(decoder.Decode("["), ElementsAre());
  EXPECT_THAT(decoder.Decode("6"), ElementsAre());
  EXPECT_THAT(decoder.Decode("~q"), ElementsAre(kKeyPageDown, 'q'));
}

TEST(KeyDecoderTest, WhatIsNoKeyIsLeftOut) {
  KeyDecoder decoder;
  EXPECT_THAT(decoder.Decode("\033[15~\033[200~\033[Zq"), ElementsAre('q'));
  EXPECT_THAT(decoder.Decode("\033\033[Aq"), ElementsAre(kKeyUp, 'q'));
  EXPECT_THAT(decoder.Decode("\033q"), ElementsAre('q')) << "Alt";
  EXPECT_THAT(decoder.Decode("\033[" + std::string(100, '1')), Not(Contains(kKeyHome)));
  EXPECT_THAT(decoder.Decode("~q"), Contains('q'));
}

}  // namespace
}  // namespace baton::cli
