#include "common/observe/trace_context.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/ids.h"

namespace baton {
namespace {

// 00-<32 digits>-<16 digits>-<2 digits>
constexpr size_t kVersion00Bytes = 55;
constexpr uint8_t kSampledFlag = 0x01;

constexpr size_t kMaxMembers = 32;
constexpr size_t kLongMemberBytes = 128;
constexpr size_t kMaxKeyBytes = 256;
constexpr size_t kMaxValueBytes = 256;
// Nothing that could be cleaned is longer: 32 members with their separators, and spaces with them.
constexpr size_t kMaxTracestateInput = kMaxMembers * (kMaxKeyBytes + kMaxValueBytes + 16);

// -1: no digit. The standard wants lower case.
int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

template <size_t N>
bool ParseHex(absl::string_view text, std::array<uint8_t, N>* out) {
  for (size_t i = 0; i < N; ++i) {
    const int high = HexDigit(text[2 * i]);
    const int low = HexDigit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    (*out)[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return true;
}

bool IsKey(absl::string_view key) {
  if (key.empty() || key.size() > kMaxKeyBytes) return false;
  if (!absl::ascii_islower(static_cast<unsigned char>(key[0])) &&
      !absl::ascii_isdigit(static_cast<unsigned char>(key[0]))) {
    return false;
  }
  return std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '*' || c == '/' || c == '@';
  });
}

// Printable ASCII but comma and equals sign, no space at the end.
bool IsValue(absl::string_view value) {
  if (value.empty() || value.size() > kMaxValueBytes || value.back() == ' ') return false;
  return std::all_of(value.begin(), value.end(), [](char c) { return c >= 0x20 && c <= 0x7e && c != ',' && c != '='; });
}

size_t JoinedBytes(const std::vector<absl::string_view>& members) {
  size_t bytes = members.empty() ? 0 : members.size() - 1;
  for (const absl::string_view member : members) bytes += member.size();
  return bytes;
}

// From a buffer of the thread: a system call for each id would cost more than all else that a span costs.
void FillRandom(uint8_t* out, size_t count) {
  thread_local std::string buffer;
  if (buffer.size() < count) buffer = RandomBytes(256);
  std::memcpy(out, buffer.data() + buffer.size() - count, count);
  buffer.resize(buffer.size() - count);
}

template <typename Id>
Id NewId() {
  Id id{};
  while (!IsSet(id)) FillRandom(id.data(), id.size());
  return id;
}

}  // namespace

absl::optional<TraceContext> ParseTraceparent(absl::string_view text) {
  if (text.size() < kVersion00Bytes) return absl::nullopt;
  std::array<uint8_t, 1> version;
  std::array<uint8_t, 1> flags;
  TraceContext context;
  const bool dashes = text[2] == '-' && text[35] == '-' && text[52] == '-';
  const bool digits = ParseHex(text.substr(0, 2), &version) && ParseHex(text.substr(3, 32), &context.trace_id) &&
                      ParseHex(text.substr(36, 16), &context.span_id) && ParseHex(text.substr(53, 2), &flags);
  if (!dashes || !digits || version[0] == 0xff) return absl::nullopt;
  if (text.size() > kVersion00Bytes && (version[0] == 0 || text[kVersion00Bytes] != '-')) return absl::nullopt;
  if (!IsSet(context.trace_id) || !IsSet(context.span_id)) return absl::nullopt;
  context.sampled = (flags[0] & kSampledFlag) != 0;
  return context;
}

std::string FormatTraceparent(const TraceContext& context) {
  return absl::StrCat("00-", ToHex(context.trace_id), "-", ToHex(context.span_id), context.sampled ? "-01" : "-00");
}

std::string CleanTracestate(absl::string_view text) {
  if (text.size() > kMaxTracestateInput) return "";
  std::vector<absl::string_view> members;
  std::vector<absl::string_view> keys;
  for (absl::string_view member : absl::StrSplit(text, ',')) {
    while (!member.empty() && (member.front() == ' ' || member.front() == '\t')) member.remove_prefix(1);
    while (!member.empty() && (member.back() == ' ' || member.back() == '\t')) member.remove_suffix(1);
    if (member.empty()) continue;
    const size_t equals = member.find('=');
    if (equals == absl::string_view::npos) return "";
    const absl::string_view key = member.substr(0, equals);
    if (!IsKey(key) || !IsValue(member.substr(equals + 1))) return "";
    if (members.size() == kMaxMembers || std::find(keys.begin(), keys.end(), key) != keys.end()) return "";
    members.push_back(member);
    keys.push_back(key);
  }
  while (JoinedBytes(members) > kMaxTracestateBytes) {
    const auto too_long = std::find_if(members.rbegin(), members.rend(),
                                       [](absl::string_view member) { return member.size() > kLongMemberBytes; });
    members.erase(too_long == members.rend() ? members.end() - 1 : too_long.base() - 1);
  }
  return absl::StrJoin(members, ",");
}

TraceId NewTraceId() { return NewId<TraceId>(); }
SpanId NewSpanId() { return NewId<SpanId>(); }

}  // namespace baton
