// One streamed answer: calls GenerateStream, hands on every event, and keeps what was said.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "baton/v1/inference.pb.h"
#include "gateway/cli/session.h"

namespace baton::cli {

// One choice of several.
struct AnswerChoice {
  std::string text;
  std::vector<v1::TokenLogprob> logprobs;
  v1::ChoiceFinished finished;
};

struct Answer {
  v1::Started started;
  // Filled also when the call fails: what arrived until then.
  std::string text;
  std::vector<v1::TokenLogprob> logprobs;
  std::vector<v1::TokenLogprob> prompt_logprobs;
  v1::Finished finished;
  // When the request has n: all of them; text and logprobs above are then those of choice 0.
  std::vector<AnswerChoice> choices;
};

// `on_event` sees each event as it comes; a failure it returns cancels the call and becomes the result. A stream that
// ends without `finished` is an error.
absl::Status StreamAnswer(Session& session, const v1::GenerateRequest& request,
                          const std::function<absl::Status(const v1::GenerateEvent&)>& on_event, Answer* answer);

// Writes deltas as they come and remembers how the line ends: `text` may or may not end in a newline.
class TextPrinter {
 public:
  explicit TextPrinter(Terminal& terminal) : terminal_(terminal) {}
  absl::Status Print(absl::string_view text);
  // On a terminal, or when anything was written at all: ends the last line.
  absl::Status EndLine();

 private:
  Terminal& terminal_;
  bool line_open_ = false;
};

// "24 prompt + 9 output tokens, first after 12 ms, 210 tokens/s", and what ended the answer if not the model itself.
std::string Summary(const v1::Finished& finished);

// "choice 2, seed 7: 40 tokens, log probability -31.5 (-0.787 a token)", and what ended it if not the model itself.
std::string ChoiceTitle(const v1::ChoiceFinished& finished);

// One line a token: log probability, piece, and the alternatives if there are any.
std::string LogprobLines(const std::vector<v1::TokenLogprob>& logprobs);

}  // namespace baton::cli
