// Trace context as clients send it: the first byte chooses the parser.
#include <cstdint>
#include <string>

#include "common/observe/trace_context.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 2 == 0) {
    const absl::optional<baton::TraceContext> context = baton::ParseTraceparent(text);
    if (!context.has_value()) return 0;
    // What is passed on is a context, and the same one.
    const auto again = baton::ParseTraceparent(baton::FormatTraceparent(*context));
    if (!again.has_value() || again->trace_id != context->trace_id || again->span_id != context->span_id ||
        again->sampled != context->sampled) {
      __builtin_trap();
    }
    return 0;
  }
  const std::string clean = baton::CleanTracestate(text);
  if (clean.size() > baton::kMaxTracestateBytes || baton::CleanTracestate(clean) != clean) __builtin_trap();
  // Fit for the metadata of another call.
  for (const char c : clean) {
    if (c < 0x20 || c > 0x7e) __builtin_trap();
  }
  return 0;
}
