#include "decode/sample_end.h"

#include <utility>

#include "absl/types/span.h"

namespace baton {

using worker::v1::DoneReason;

SampleEnd::SampleEnd(const SequenceRequest* request, const TokenText* vocabulary) : request_(request) {
  if (request->stop_strings.empty() || vocabulary == nullptr) return;
  StreamDecoderOptions options;
  options.stop = request->stop_strings;
  text_ = std::make_unique<StreamDecoder>(vocabulary, std::move(options));
  // A stop string may have begun before the request came here.
  const auto generated = static_cast<size_t>(request->generated_tokens);
  for (const int32_t token : absl::MakeConstSpan(request->tokens).last(generated)) text_->Push(token);
}

absl::optional<DoneReason> SampleEnd::Push(int32_t token, int64_t generated) {
  const bool is_text = text_ != nullptr && (request_->include_stop_tokens || !request_->IsStop(token));
  if (is_text && text_->Push(token).matched_stop >= 0) return worker::v1::STOP_STRING;
  return request_->EndAt(token, generated);
}

}  // namespace baton
