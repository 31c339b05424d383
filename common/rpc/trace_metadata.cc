#include "common/rpc/trace_metadata.h"

#include <string>

#include "absl/strings/string_view.h"

namespace baton {

absl::optional<TraceContext> TraceParent(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
  const auto [first, last] = metadata.equal_range(kTraceparentKey);
  if (first == last || std::next(first) != last) return absl::nullopt;
  absl::optional<TraceContext> context =
      ParseTraceparent(absl::string_view(first->second.data(), first->second.size()));
  if (!context.has_value()) return absl::nullopt;
  // Several are one list.
  std::string states;
  const auto [state, end] = metadata.equal_range(kTracestateKey);
  for (auto next = state; next != end; ++next) {
    if (next != state) states.push_back(',');
    states.append(next->second.data(), next->second.size());
  }
  context->trace_state = CleanTracestate(states);
  return context;
}

void AddTraceContext(const Span& span, grpc::ClientContext* context) {
  const absl::optional<TraceContext> trace = span.context();
  if (!trace.has_value()) return;
  context->AddMetadata(kTraceparentKey, FormatTraceparent(*trace));
  if (!trace->trace_state.empty()) context->AddMetadata(kTracestateKey, trace->trace_state);
}

}  // namespace baton
