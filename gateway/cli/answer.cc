#include "gateway/cli/answer.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "gateway/cli/format.h"

namespace baton::cli {
namespace {

void Append(const v1::Delta& delta, std::string* text, std::vector<v1::TokenLogprob>* logprobs) {
  *text += delta.text();
  logprobs->insert(logprobs->end(), delta.logprobs().begin(), delta.logprobs().end());
}

void Keep(const v1::GenerateEvent& event, Answer* answer) {
  switch (event.event_case()) {
    case v1::GenerateEvent::kStarted:
      answer->started = event.started();
      answer->choices.resize(static_cast<size_t>(event.started().seeds_size()));
      break;
    case v1::GenerateEvent::kPromptLogprobs:
      answer->prompt_logprobs.assign(event.prompt_logprobs().tokens().begin(), event.prompt_logprobs().tokens().end());
      break;
    case v1::GenerateEvent::kDelta: {
      const v1::Delta& delta = event.delta();
      const size_t choice = static_cast<size_t>(delta.choice());
      if (choice < answer->choices.size()) {
        Append(delta, &answer->choices[choice].text, &answer->choices[choice].logprobs);
      }
      if (choice == 0) Append(delta, &answer->text, &answer->logprobs);
      break;
    }
    case v1::GenerateEvent::kChoiceFinished: {
      const size_t choice = static_cast<size_t>(event.choice_finished().choice());
      if (choice < answer->choices.size()) answer->choices[choice].finished = event.choice_finished();
      break;
    }
    case v1::GenerateEvent::kFinished:
      answer->finished = event.finished();
      break;
    case v1::GenerateEvent::EVENT_NOT_SET:
      break;
  }
}

// What ended the answer, or a choice; empty when the model did.
template <typename Finished>
std::string EndDescription(const Finished& finished) {
  switch (finished.reason()) {
    case v1::FINISH_REASON_STOP:
      switch (finished.match().kind_case()) {
        case v1::StopMatch::kStopString:
          return absl::StrCat("stopped at ", Quoted(finished.match().stop_string()));
        case v1::StopMatch::kStopTokenId:
          return absl::StrCat("stopped at token ", finished.match().stop_token_id());
        default:
          // As answers should.
          return "";
      }
    case v1::FINISH_REASON_LENGTH:
      return absl::StrCat("cut off after ", finished.usage().completion_tokens(),
                          " tokens (--max-new-tokens allows more)");
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_TIME_LIMIT:
      return "cut off by the time limit";
    default:
      return "ended";
  }
}

}  // namespace

absl::Status StreamAnswer(Session& session, const v1::GenerateRequest& request,
                          const std::function<absl::Status(const v1::GenerateEvent&)>& on_event, Answer* answer) {
  BATON_RETURN_IF_ERROR(session.Connect());
  absl::Status handled;
  bool finished = false;
  const absl::Status called = session.Call([&](grpc::ClientContext* context) {
    const auto stream = session.inference().GenerateStream(context, request);
    v1::GenerateEvent event;
    while (stream->Read(&event)) {
      Keep(event, answer);
      finished |= event.has_finished();
      if (handled.ok()) handled = on_event(event);
      // Keeps reading until the cancellation ends the stream, as Finish needs.
      if (!handled.ok()) context->TryCancel();
    }
    return stream->Finish();
  });
  BATON_RETURN_IF_ERROR(handled);
  BATON_RETURN_IF_ERROR(called);
  if (!finished) return absl::InternalError("the gateway ended the answer without saying why");
  return absl::OkStatus();
}

absl::Status TextPrinter::Print(absl::string_view text) {
  if (text.empty()) return absl::OkStatus();
  line_open_ = text.back() != '\n';
  return terminal_.Out(terminal_.out_is_terminal() ? WithoutControls(text) : std::string(text));
}

absl::Status TextPrinter::EndLine() {
  if (!line_open_) return absl::OkStatus();
  line_open_ = false;
  return terminal_.Out("\n");
}

std::string Summary(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  std::string text = absl::StrCat(usage.prompt_tokens(), " prompt + ", usage.completion_tokens(), " output tokens");
  if (usage.cached_prompt_tokens() > 0) absl::StrAppend(&text, " (", usage.cached_prompt_tokens(), " cached)");
  const v1::Timing& timing = finished.timing();
  if (usage.completion_tokens() > 0) {
    absl::StrAppend(&text, ", first after ", FormatSeconds(timing.time_to_first_token_seconds()));
  }
  const double decoding = timing.total_seconds() - timing.time_to_first_token_seconds();
  if (usage.completion_tokens() > 1 && decoding > 0) {
    absl::StrAppend(&text, ", ", FormatRate((usage.completion_tokens() - 1) / decoding), " tokens/s");
  }
  const std::string end = EndDescription(finished);
  return end.empty() ? text : absl::StrCat(text, "; ", end);
}

std::string ChoiceTitle(const v1::ChoiceFinished& finished) {
  const int32_t tokens = finished.usage().completion_tokens();
  std::string text = absl::StrCat("choice ", finished.choice(), ", seed ", finished.seed(), ": ", tokens,
                                  tokens == 1 ? " token" : " tokens");
  if (tokens > 0) {
    absl::StrAppendFormat(&text, ", log probability %.4g (%.3g a token)", finished.cumulative_logprob(),
                          finished.cumulative_logprob() / tokens);
  }
  const std::string end = finished.reason() == v1::FINISH_REASON_CANCELLED ? "cut off: enough others had finished"
                                                                           : EndDescription(finished);
  return end.empty() ? text : absl::StrCat(text, "; ", end);
}

std::string LogprobLines(const std::vector<v1::TokenLogprob>& logprobs) {
  std::string text;
  for (const v1::TokenLogprob& token : logprobs) {
    absl::StrAppendFormat(&text, "%9.4f  %s", token.logprob(), Quoted(token.piece()));
    if (token.top_size() > 0) {
      absl::StrAppend(&text, "  of ", absl::StrJoin(token.top(), " ", [](std::string* out, const v1::TopLogprob& top) {
        absl::StrAppendFormat(out, "%s %.4f", Quoted(top.piece()), top.logprob());
      }));
    }
    text.push_back('\n');
  }
  return text;
}

}  // namespace baton::cli
