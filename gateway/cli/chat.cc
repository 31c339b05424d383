// baton chat: a conversation. Ctrl-C stops an answer, Ctrl-D leaves. Line editing is the terminal's own.
#include <signal.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/answer.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/exit_code.h"
#include "gateway/cli/failure.h"
#include "gateway/cli/input.h"
#include "gateway/cli/model_choice.h"
#include "gateway/cli/request_options.h"

namespace baton::cli {
namespace {

constexpr char kHelp[] =
    "/reset        forget the conversation\n"
    "/model NAME   go on with another model\n"
    "/quit         leave (so does Ctrl-D)\n"
    "A line that ends in \\ goes on in the next. Ctrl-C stops an answer.\n";

class Chat {
 public:
  Chat(RequestOptions options, Session& session)
      : options_(std::move(options)), session_(session), terminal_(session.terminal()) {}

  absl::Status Run() {
    BATON_RETURN_IF_ERROR(session_.Connect());
    BATON_ASSIGN_OR_RETURN(model_, ChooseModel(session_));
    Dim(absl::StrCat(model_.empty() ? "Chat" : absl::StrCat("Chat with ", model_),
                     ". Ctrl-C stops an answer, Ctrl-D leaves, /help says more.\n"));
    // Ctrl-C at any moment of a conversation is for the conversation.
    Interrupt::Scope scope(session_.interrupt());
    LineReader reader(terminal_.in(), session_.interrupt());
    while (true) {
      std::string message;
      BATON_ASSIGN_OR_RETURN(const LineReader::End end, ReadMessage(reader, &message));
      if (end == LineReader::End::kInterrupted) {
        if (session_.interrupt().signal() == SIGTERM) return session_.interrupt().status();
        session_.interrupt().Clear();
        reader.Discard();
        Dim("\n(Ctrl-D or /quit leaves)\n");
        continue;
      }
      if (end == LineReader::End::kEof) {
        if (terminal_.in_is_terminal()) terminal_.Note("\n");
        return absl::OkStatus();
      }
      if (absl::StripAsciiWhitespace(message).empty()) continue;
      if (message.front() == '/') {
        if (!ObeyCommand(message)) return absl::OkStatus();
        continue;
      }
      BATON_RETURN_IF_ERROR(Say(message));
    }
  }

 private:
  void Dim(absl::string_view text) {
    if (session_.interactive()) terminal_.Note(terminal_.PaintNote(Terminal::Style::kDim, text));
  }
  void Prompt(absl::string_view text) {
    if (terminal_.in_is_terminal() && session_.interactive()) {
      terminal_.Note(terminal_.PaintNote(Terminal::Style::kCyan, text));
    }
  }

  absl::StatusOr<LineReader::End> ReadMessage(LineReader& reader, std::string* message) {
    Prompt("> ");
    while (true) {
      std::string line;
      BATON_ASSIGN_OR_RETURN(const LineReader::End end, reader.Next(&line));
      if (end != LineReader::End::kLine) return end;
      if (!absl::EndsWith(line, "\\")) {
        *message += line;
        return end;
      }
      line.back() = '\n';
      *message += line;
      Prompt("| ");
    }
  }

  // False: leave.
  bool ObeyCommand(const std::string& line) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text == "/quit" || text == "/exit") return false;
    if (text == "/reset") {
      messages_.clear();
      kept_.clear();
      Dim("(forgotten)\n");
    } else if (absl::StartsWith(text, "/model ")) {
      model_ = std::string(absl::StripAsciiWhitespace(text.substr(sizeof "/model" - 1)));
      kept_.clear();
      Dim(absl::StrCat("(from now on ", model_, ")\n"));
    } else {
      if (text != "/help") terminal_.Note(absl::StrCat("there is no command ", WithoutControls(text), "\n"));
      terminal_.Note(kHelp);
    }
    return true;
  }

  // One turn of each side. A failed call leaves the conversation as it was before; a person is told and goes on.
  absl::Status Say(const std::string& message) {
    const absl::Status valid = CheckUtf8(message, "message");
    if (!valid.ok() && !terminal_.in_is_terminal()) return valid;
    if (!valid.ok()) {
      ReportFailure(valid, session_);
      return absl::OkStatus();
    }
    messages_.push_back(MakeMessage("user", message));
    v1::GenerateRequest request;
    BATON_RETURN_IF_ERROR(FillRequest(options_, &request));
    request.set_model(model_);
    request.mutable_output()->set_token_ids(false);
    request.set_keep_state(true);

    TextPrinter printer(terminal_);
    Answer answer;
    absl::Status status = Ask(&request, printer, &answer);
    if (ErrorReason(status) == "SESSION_EXPIRED") {
      // The servers have let go of it: they are told the whole conversation again.
      kept_.clear();
      status = Ask(&request, printer, &answer);
    }
    BATON_RETURN_IF_ERROR(printer.EndLine());
    const bool interrupted = session_.interrupt().raised();
    if (interrupted && session_.interrupt().signal() == SIGTERM) return session_.interrupt().status();
    if (interrupted) session_.interrupt().Clear();
    if (!status.ok() && !interrupted) {
      messages_.pop_back();
      // A script has nobody who could do something about it.
      if (!terminal_.in_is_terminal() || ErrorReason(status) == kOutputClosed) return status;
      ReportFailure(status, session_);
      if (ErrorReason(status) == "PROMPT_TOO_LONG") Dim("(/reset starts a new conversation)\n");
      return absl::OkStatus();
    }
    // What was said before Ctrl-C is part of the conversation; a turn without any answer is not.
    if (answer.text.empty() && interrupted) {
      messages_.pop_back();
    } else {
      messages_.push_back(MakeMessage("model", answer.text));
      kept_ = answer.finished.session().handle();
    }
    Dim(absl::StrCat("(", interrupted ? "stopped" : Summary(answer.finished), ")\n"));
    return absl::OkStatus();
  }

  // Sends the last message where the servers have kept what was said before, else all of them.
  absl::Status Ask(v1::GenerateRequest* request, TextPrinter& printer, Answer* answer) {
    request->set_session(kept_);
    request->clear_chat();
    if (kept_.empty()) {
      for (const v1::ChatMessage& turn : messages_) *request->mutable_chat()->add_messages() = turn;
    } else {
      *request->mutable_chat()->add_messages() = messages_.back();
    }
    return StreamAnswer(
        session_, *request, [&](const v1::GenerateEvent& event) { return printer.Print(event.delta().text()); },
        answer);
  }

  static v1::ChatMessage MakeMessage(const std::string& role, const std::string& content) {
    v1::ChatMessage message;
    message.set_role(role);
    message.set_content(content);
    return message;
  }

  const RequestOptions options_;
  Session& session_;
  Terminal& terminal_;
  std::string model_;
  std::vector<v1::ChatMessage> messages_;
  // Handle of the conversation up to here, where the servers have kept it.
  std::string kept_;
};

}  // namespace

Command AddChat(CLI::App& app, Session& session) {
  auto options = std::make_shared<RequestOptions>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model");
  AddSamplingFlags(command, options.get());
  AddStoppingFlags(command, options.get());
  return {
      command, [options, &session] {
        if (session.options.json) {
          return absl::InvalidArgumentError("chat is for people; for machines there is `generate --messages --json`");
        }
        return Chat(*options, session).Run();
      }};
}

}  // namespace baton::cli
