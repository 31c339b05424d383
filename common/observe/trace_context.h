// W3C Trace Context (https://www.w3.org/TR/trace-context/): which trace a call belongs to, and which span of its caller
// it comes from, as the `traceparent` and `tracestate` metadata say it.
//
//   if (absl::optional<TraceContext> parent = ParseTraceparent(header)) {
//     parent->trace_state = CleanTracestate(other_header);        // only then
//   }
//   context->AddMetadata(kTraceparentKey, FormatTraceparent(child));
//
// Whatever a client sends is either a context or none: there are no errors, as a caller that traces badly is to be
// served all the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace baton {

inline constexpr char kTraceparentKey[] = "traceparent";
inline constexpr char kTracestateKey[] = "tracestate";
// W3C's draft of what a server answers: the same form, with the id of its own span.
inline constexpr char kTraceresponseKey[] = "traceresponse";
// Of a tracestate that is passed on.
inline constexpr size_t kMaxTracestateBytes = 512;

// All zeros: none.
using TraceId = std::array<uint8_t, 16>;
using SpanId = std::array<uint8_t, 8>;

struct TraceContext {
  TraceId trace_id{};
  SpanId span_id{};
  // The caller records the trace and wants the rest of it.
  bool sampled = false;
  // What other tracing systems pass along; nothing of ours.
  std::string trace_state;
};

// Versions later than 00 are read as far as 00 goes, as the standard asks. Absent for everything malformed, version ff,
// and ids of zeros.
absl::optional<TraceContext> ParseTraceparent(absl::string_view text);
// Version 00.
std::string FormatTraceparent(const TraceContext& context);

// The list without empty members and spaces around them; empty when there is anything wrong with it: a key or value
// that the standard does not allow, a key twice, more than 32 members. Beyond kMaxTracestateBytes, members longer than
// 128 bytes go first, then those on the right.
std::string CleanTracestate(absl::string_view text);

TraceId NewTraceId();
SpanId NewSpanId();

template <size_t N>
bool IsSet(const std::array<uint8_t, N>& id) {
  return id != std::array<uint8_t, N>{};
}

// Hex digits in lower case.
template <size_t N>
std::string ToHex(const std::array<uint8_t, N>& id) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * N);
  for (const uint8_t byte : id) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

}  // namespace baton
