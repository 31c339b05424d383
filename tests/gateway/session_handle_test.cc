#include "gateway/session_handle.h"

#include <gtest/gtest.h>

#include "common/base/ids.h"

namespace baton {
namespace {

TEST(SessionHandleTest, ComesBackAsItWas) {
  const std::string boot_id = NewBootId();
  const std::string id = "0123456789abcdef";
  const std::string text = MakeSessionHandle(boot_id, id);
  EXPECT_EQ(text.size(), 48u);
  const absl::optional<SessionHandle> handle = ParseSessionHandle(text);
  ASSERT_TRUE(handle.has_value());
  EXPECT_EQ(handle->boot_id, boot_id);
  EXPECT_EQ(handle->id, id);
}

TEST(SessionHandleTest, NothingElseIsOne) {
  const std::string good = MakeSessionHandle(std::string(16, '0'), "0123456789abcdef");
  ASSERT_TRUE(ParseSessionHandle(good).has_value());
  for (std::string bad : {std::string(), good.substr(1), good + "0", std::string(48, 'g'), std::string(48, 'A'),
                          std::string(48, '\0'), std::string(1 << 20, '0'), "../" + good.substr(3)}) {
    EXPECT_FALSE(ParseSessionHandle(bad).has_value()) << bad.substr(0, 60);
  }
}

}  // namespace
}  // namespace baton
