#include "common/text/stream_decoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "common/text/utf8.h"

namespace baton {
namespace {

// Length of the longest end of `text` with which a stop string could begin, but not end.
size_t PossibleStopPrefix(absl::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const absl::string_view stop : stops) {
    const size_t limit = std::min(text.size(), stop.empty() ? 0 : stop.size() - 1);
    for (size_t length = limit; length > longest; --length) {
      if (absl::EndsWith(text, stop.substr(0, length))) {
        longest = length;
        break;
      }
    }
  }
  return longest;
}

struct StopFound {
  int index = -1;
  size_t begin = 0;
  size_t end = 0;
};

// The stop string that ends earliest in `text`; of those, the longest.
StopFound FindStop(absl::string_view text, const std::vector<std::string>& stops) {
  StopFound found;
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty()) continue;
    const size_t begin = text.find(stops[i]);
    if (begin == absl::string_view::npos) continue;
    const size_t end = begin + stops[i].size();
    if (found.index < 0 || end < found.end || (end == found.end && begin < found.begin)) {
      found = {static_cast<int>(i), begin, end};
    }
  }
  return found;
}

}  // namespace

StreamDecoder::StreamDecoder(const TokenText* tokens, StreamDecoderOptions options)
    : tokens_(tokens), options_(std::move(options)) {}

StreamDecoder::Step StreamDecoder::Push(int32_t id) {
  if (done_) return {};
  bytes_ += tokens_->TokenBytes(id, options_.keep_special);
  return Release(/*flush=*/false);
}

std::string StreamDecoder::Flush() {
  if (done_) return "";
  Step step = Release(/*flush=*/true);
  done_ = true;
  return std::move(step.text);
}

StreamDecoder::Step StreamDecoder::Release(bool flush) {
  MoveUtf8(bytes_, held_, flush);
  Step step;
  if (const StopFound stop = FindStop(held_, options_.stop); stop.index >= 0) {
    held_.resize(options_.include_stop ? stop.end : stop.begin);
    done_ = true;
    step.matched_stop = stop.index;
    step.text = std::move(held_);
    return step;
  }
  const size_t keep = flush ? 0 : PossibleStopPrefix(held_, options_.stop);
  step.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return step;
}

}  // namespace baton
