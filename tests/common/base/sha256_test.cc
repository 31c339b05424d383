#include "common/base/sha256.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/escaping.h"

namespace baton {
namespace {

std::string Hex(absl::string_view data) { return absl::BytesToHexString(Sha256(data)); }

// FIPS 180-4's examples, and lengths around a block.
TEST(Sha256Test, KnownValues) {
  EXPECT_EQ(Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Hex(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, EveryLengthHasItsOwn) {
  std::string previous;
  for (size_t length = 0; length < 200; ++length) {
    const std::string digest = Sha256(std::string(length, 'x'));
    EXPECT_EQ(digest.size(), kSha256Bytes);
    EXPECT_NE(digest, previous);
    previous = digest;
  }
  EXPECT_EQ(Hex(std::string(64, 'x')), "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c");
}

}  // namespace
}  // namespace baton
