#include "gateway/session_handle.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/rpc/worker_request.h"

namespace baton {
namespace {

constexpr size_t kBootIdDigits = 16;
constexpr size_t kIdDigits = 2 * kSessionIdBytes;

bool IsLowerHexDigit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

}  // namespace

std::string MakeSessionHandle(absl::string_view boot_id, absl::string_view id) {
  return absl::StrCat(boot_id, absl::BytesToHexString(id));
}

absl::optional<SessionHandle> ParseSessionHandle(absl::string_view text) {
  if (text.size() != kBootIdDigits + kIdDigits) return absl::nullopt;
  if (!std::all_of(text.begin(), text.end(), IsLowerHexDigit)) return absl::nullopt;
  SessionHandle handle;
  handle.boot_id = std::string(text.substr(0, kBootIdDigits));
  handle.id = absl::HexStringToBytes(text.substr(kBootIdDigits));
  return handle;
}

}  // namespace baton
