#include "bench/serve_workload.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

// Independent streams of the seed. Prompts and lengths take one for each request.
constexpr uint64_t kArrivalStream = 0;
constexpr uint64_t kSharedPrefixStream = ~uint64_t{0};
uint64_t LengthStream(int64_t index) { return 1 + 2 * static_cast<uint64_t>(index); }
uint64_t PromptStream(int64_t index) { return 2 + 2 * static_cast<uint64_t>(index); }

}  // namespace

absl::StatusOr<Workload> MakeWorkload(const WorkloadOptions& options) {
  BATON_CHECK(options.rate > 0 && (options.duration > 0 || options.requests > 0));
  const int64_t least = options.prompt_tokens.smallest() + options.output_tokens.smallest();
  if (least > options.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt and output have at least ", least, " tokens, but the model takes ", options.max_tokens));
  }
  Workload workload;
  workload.measure_begin = options.warmup;
  Random arrivals(options.seed, kArrivalStream);
  double now = 0;
  int64_t measured = 0;
  while (true) {
    now += arrivals.Exponential(1 / options.rate);
    if (options.duration > 0 && now >= options.warmup + options.duration) break;
    if (workload.items.size() == kMaxWorkItems) {
      return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxWorkItems, " requests in one run"));
    }
    WorkItem item;
    item.index = static_cast<int64_t>(workload.items.size());
    item.arrival = now;
    item.measured = now >= options.warmup;
    Random lengths(options.seed, LengthStream(item.index));
    const int64_t prompt = options.prompt_tokens.Sample(lengths);
    const int64_t output = options.output_tokens.Sample(lengths);
    item.prompt_tokens = std::min(prompt, options.max_tokens - options.output_tokens.smallest());
    item.output_tokens = std::min(output, options.max_tokens - item.prompt_tokens);
    if (item.prompt_tokens != prompt || item.output_tokens != output) ++workload.cut;
    workload.items.push_back(item);
    if (item.measured && ++measured == options.requests) break;
  }
  if (measured == 0)
    return absl::InvalidArgumentError("no request arrives in the time measured: raise rate or duration");
  workload.by_count = options.requests > 0 && measured == options.requests;
  workload.measure_end = workload.by_count ? workload.items.back().arrival : options.warmup + options.duration;
  return workload;
}

namespace {

void FillPrompt(const WorkloadOptions& options, Random& random, absl::Span<int32_t> ids) {
  if (!options.text_ids.empty()) {
    const auto size = static_cast<int64_t>(options.text_ids.size());
    const int64_t begin = random.Integer(0, size - 1);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = options.text_ids[(begin + static_cast<int64_t>(i)) % size];
    return;
  }
  const int32_t first = std::min(kFirstPlainToken, options.vocab_size - 1);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.Integer(first, options.vocab_size - 1));
}

}  // namespace

std::vector<int32_t> MakePrompt(const WorkloadOptions& options, const WorkItem& item) {
  std::vector<int32_t> ids(item.prompt_tokens);
  const auto shared = static_cast<size_t>(std::min(options.shared_prefix, item.prompt_tokens));
  Random common(options.seed, kSharedPrefixStream);
  FillPrompt(options, common, absl::MakeSpan(ids).first(shared));
  Random own(options.seed, PromptStream(item.index));
  FillPrompt(options, own, absl::MakeSpan(ids).subspan(shared));
  return ids;
}

}  // namespace baton
