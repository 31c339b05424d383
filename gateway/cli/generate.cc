// baton generate: one prompt, one answer, streamed as it comes.
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gateway/cli/answer.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/input.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/model_choice.h"
#include "gateway/cli/prompt.h"
#include "gateway/cli/request_options.h"

namespace baton::cli {
namespace {

struct GenerateOptions {
  TextSource prompt;
  std::optional<std::string> tokens;
  std::string messages;
  bool chat = false;
  bool raw = false;
  bool no_bos = false;
  bool parse_special = false;
  bool stream = false;
  bool no_stream = false;
  std::optional<int32_t> samples;
  std::optional<int32_t> stop_after;
  bool keep_state = false;
  std::string session;
  RequestOptions request;
};

absl::Status CheckSources(const GenerateOptions& options) {
  const int sources = (options.prompt.has_argument ? 1 : 0) + (options.prompt.file.empty() ? 0 : 1) +
                      (options.tokens ? 1 : 0) + (options.messages.empty() ? 0 : 1);
  if (sources > 1) {
    return absl::InvalidArgumentError("more than one prompt: give either PROMPT, --file, --tokens or --messages");
  }
  if (options.stream && options.no_stream) {
    return absl::InvalidArgumentError("--stream and --no-stream contradict each other");
  }
  if (options.chat && options.raw) return absl::InvalidArgumentError("--chat and --raw contradict each other");
  if (options.raw && !options.messages.empty()) {
    return absl::InvalidArgumentError("--messages is a conversation: --raw does not apply");
  }
  if ((options.no_bos || options.parse_special) && !options.raw) {
    return absl::InvalidArgumentError("--no-bos and --parse-special need --raw: a chat prompt has its own format");
  }
  if (options.stop_after && !options.samples) {
    return absl::InvalidArgumentError("--stop-after needs -n: it counts samples that have finished");
  }
  return absl::OkStatus();
}

absl::Status FillPrompt(const GenerateOptions& options, Session& session, v1::GenerateRequest* request) {
  if (options.tokens) {
    BATON_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseTokenIds(*options.tokens));
    request->mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
    return absl::OkStatus();
  }
  if (!options.messages.empty()) {
    BATON_ASSIGN_OR_RETURN(const std::string json, ReadWhole(options.messages, session.terminal().in()));
    BATON_ASSIGN_OR_RETURN(*request->mutable_chat(), ParseMessages(json, "--messages " + options.messages));
    return absl::OkStatus();
  }
  BATON_ASSIGN_OR_RETURN(const std::string text, ReadText(options.prompt, "prompt", session));
  if (options.raw) {
    *request->mutable_text() = PlainText(text, options.no_bos, options.parse_special);
  } else {
    *request->mutable_chat() = OneMessage(text);
  }
  return absl::OkStatus();
}

absl::Status PrintWhole(Session& session, const v1::GenerateRequest& request) {
  BATON_RETURN_IF_ERROR(session.Connect());
  v1::GenerateResponse response;
  BATON_RETURN_IF_ERROR(session.Call(
      [&](grpc::ClientContext* context) { return session.inference().Generate(context, request, &response); }));
  return session.terminal().Out(JsonLine(ToJson(response)));
}

absl::Status PrintEvents(Session& session, const v1::GenerateRequest& request) {
  Answer answer;
  return StreamAnswer(
      session, request,
      [&](const v1::GenerateEvent& event) { return session.terminal().Out(JsonLine(ToJson(event, request.has_n()))); },
      &answer);
}

// Below an answer; the request's id is for `baton trace`.
std::string Note(const Answer& answer, const v1::Finished& finished) {
  return absl::StrCat(Summary(finished), "; ", WithoutControls(answer.started.request_id()));
}

absl::Status PrintText(Session& session, const v1::GenerateRequest& request, bool stream, bool logprobs) {
  Terminal& terminal = session.terminal();
  TextPrinter printer(terminal);
  Answer answer;
  const absl::Status status = StreamAnswer(
      session, request,
      [&](const v1::GenerateEvent& event) { return stream ? printer.Print(event.delta().text()) : absl::OkStatus(); },
      &answer);
  if (status.ok() && !stream) BATON_RETURN_IF_ERROR(printer.Print(answer.text));
  BATON_RETURN_IF_ERROR(printer.EndLine());
  BATON_RETURN_IF_ERROR(status);
  if (!answer.prompt_logprobs.empty()) {
    BATON_RETURN_IF_ERROR(terminal.Out(absl::StrCat("\nprompt:\n", LogprobLines(answer.prompt_logprobs))));
  }
  if (logprobs) BATON_RETURN_IF_ERROR(terminal.Out(absl::StrCat("\nanswer:\n", LogprobLines(answer.logprobs))));
  if (session.interactive()) {
    terminal.Note(terminal.PaintNote(Terminal::Style::kDim, Note(answer, answer.finished)) + "\n");
  }
  return absl::OkStatus();
}

// Each choice as a block, in the order in which they finish.
absl::Status PrintChoices(Session& session, const v1::GenerateRequest& request) {
  Terminal& terminal = session.terminal();
  Answer answer;
  const auto print = [&](const AnswerChoice& choice) -> absl::Status {
    TextPrinter printer(terminal);
    BATON_RETURN_IF_ERROR(terminal.Out(absl::StrCat("--- ", ChoiceTitle(choice.finished), "\n")));
    BATON_RETURN_IF_ERROR(printer.Print(choice.text));
    BATON_RETURN_IF_ERROR(printer.EndLine());
    if (!request.output().logprobs()) return absl::OkStatus();
    return terminal.Out(absl::StrCat("\n", LogprobLines(choice.logprobs)));
  };
  const absl::Status status = StreamAnswer(
      session, request,
      [&](const v1::GenerateEvent& event) {
        const size_t choice = static_cast<size_t>(event.choice_finished().choice());
        return event.has_choice_finished() && choice < answer.choices.size() ? print(answer.choices[choice])
                                                                             : absl::OkStatus();
      },
      &answer);
  BATON_RETURN_IF_ERROR(status);
  if (!answer.prompt_logprobs.empty()) {
    BATON_RETURN_IF_ERROR(terminal.Out(absl::StrCat("\nprompt:\n", LogprobLines(answer.prompt_logprobs))));
  }
  if (session.interactive()) {
    v1::Finished whole = answer.finished;
    // Each choice's end is in its title.
    whole.set_reason(v1::FINISH_REASON_STOP);
    whole.clear_match();
    terminal.Note(terminal.PaintNote(Terminal::Style::kDim, Note(answer, whole)) + "\n");
  }
  return absl::OkStatus();
}

absl::Status Generate(const GenerateOptions& options, Session& session) {
  BATON_RETURN_IF_ERROR(CheckSources(options));
  v1::GenerateRequest request;
  BATON_RETURN_IF_ERROR(FillRequest(options.request, &request));
  if (options.samples) request.set_n(*options.samples);
  if (options.stop_after) request.set_stop_after(*options.stop_after);
  if (options.keep_state) request.set_keep_state(true);
  BATON_RETURN_IF_ERROR(CheckUtf8(options.session, "session handle"));
  request.set_session(options.session);
  BATON_RETURN_IF_ERROR(FillPrompt(options, session, &request));
  BATON_ASSIGN_OR_RETURN(*request.mutable_model(), ChooseModel(session));
  if (session.options.json) {
    return options.stream ? PrintEvents(session, request) : PrintWhole(session, request);
  }
  request.mutable_output()->set_token_ids(false);
  if (options.samples) return PrintChoices(session, request);
  return PrintText(session, request, !options.no_stream, request.output().logprobs());
}

}  // namespace

Command AddGenerate(CLI::App& app, Session& session) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Answer one prompt");
  CLI::Option* argument =
      command->add_option("prompt", options->prompt.argument, "The prompt; left out: --file or standard input")
          ->type_name("PROMPT");
  command->add_option("-f,--file", options->prompt.file, "Read the prompt from a file; - is standard input")
      ->type_name("PATH");
  command->add_option("--messages", options->messages, R"(A conversation: JSON array of {"role", "content"})")
      ->type_name("PATH");
  command->add_option("--tokens", options->tokens, "The prompt as token ids, used as they are")->type_name("IDS");
  command->add_flag("--chat", options->chat, "The prompt is a user's message (the default)");
  command->add_flag("--raw", options->raw, "Continue the prompt as plain text");
  command->add_flag("--no-bos", options->no_bos, "With --raw: do not begin with the BOS token");
  command->add_flag("--parse-special", options->parse_special,
                    "With --raw: <start_of_turn> and the like become control tokens");
  command->add_flag("--stream", options->stream,
                    "With --json: one event a line as they come, not one object at the end");
  command->add_flag("--no-stream", options->no_stream, "Write the text when it is complete");
  const std::string samples = "Samples";
  command
      ->add_option("-n,--samples", options->samples,
                   "Draw N answers to the prompt, which is computed once; each has a seed of its own")
      ->type_name("N")
      ->group(samples);
  command->add_option("--stop-after", options->stop_after, "With -n: when K answers have finished, cut off the others")
      ->type_name("K")
      ->group(samples);
  const std::string conversation = "Conversation";
  command
      ->add_flag("--keep-state", options->keep_state,
                 "Let the conversation be continued: --json shows its session handle")
      ->group(conversation);
  command
      ->add_option("--session", options->session, "Go on with a kept conversation; the prompt is only what comes new")
      ->type_name("HANDLE")
      ->group(conversation);
  AddSamplingFlags(command, &options->request);
  AddStoppingFlags(command, &options->request);
  AddOutputFlags(command, &options->request);
  AddSchedulingFlags(command, &options->request);
  return {command, [options, argument, &session] {
            options->prompt.has_argument = argument->count() > 0;
            return Generate(*options, session);
          }};
}

}  // namespace baton::cli
