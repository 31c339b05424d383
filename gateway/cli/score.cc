// baton score: log probabilities of given continuations.
#include <cmath>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "gateway/cli/answer.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/format.h"
#include "gateway/cli/input.h"
#include "gateway/cli/json_lines.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/model_choice.h"
#include "gateway/cli/prompt.h"

namespace baton::cli {
namespace {

struct ScoreOptions {
  TextSource context;
  std::vector<std::string> continuations;
  std::optional<std::string> jsonl;
  int parallel = 8;
  bool chat = false;
  bool no_bos = false;
  bool parse_special = false;
  bool logprobs = false;
  std::optional<int32_t> top_logprobs;
  std::optional<int32_t> priority;
};

v1::ScoreRequest MakeRequest(const ScoreOptions& options, const std::string& model, const std::string& context) {
  v1::ScoreRequest request;
  request.set_model(model);
  if (options.chat) {
    *request.mutable_chat() = OneMessage(context);
  } else {
    *request.mutable_text() = PlainText(context, options.no_bos, options.parse_special);
  }
  if (options.top_logprobs) request.set_top_logprobs(*options.top_logprobs);
  if (options.priority) request.set_priority(*options.priority);
  return request;
}

absl::StatusOr<v1::ScoreResponse> Call(const v1::ScoreRequest& request, Session& session) {
  v1::ScoreResponse response;
  BATON_RETURN_IF_ERROR(session.Call(
      [&](grpc::ClientContext* context) { return session.inference().Score(context, request, &response); }));
  if (response.scores_size() != request.continuations_size()) {
    return absl::InternalError(absl::StrCat("the gateway scored ", response.scores_size(), " of ",
                                            request.continuations_size(), " continuations"));
  }
  return response;
}

absl::StatusOr<std::string> ScoreLine(const ScoreOptions& options, const std::string& model, const std::string& line,
                                      Session& session) {
  const nlohmann::json value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const absl::Status bad =
      absl::InvalidArgumentError(R"(it is not {"context": TEXT, "continuation": TEXT or [TEXT, ...]})");
  if (!value.is_object()) return bad;
  const auto context = value.find("context");
  const auto continuation = value.find("continuation");
  if (context == value.end() || !context->is_string() || continuation == value.end()) return bad;

  v1::ScoreRequest request = MakeRequest(options, model, context->get<std::string>());
  const bool single = continuation->is_string();
  if (single) {
    request.add_continuations()->set_text(continuation->get<std::string>());
  } else {
    if (!continuation->is_array()) return bad;
    for (const nlohmann::json& text : *continuation) {
      if (!text.is_string()) return bad;
      request.add_continuations()->set_text(text.get<std::string>());
    }
  }
  BATON_ASSIGN_OR_RETURN(const v1::ScoreResponse response, Call(request, session));
  return JsonLine(single ? ToJson(response.scores(0)) : ToJson(response));
}

std::string ScoreTable(const v1::ScoreResponse& response, const std::vector<std::string>& continuations,
                       const Terminal& terminal) {
  Table table;
  table.AddColumn("LOGPROB", Table::Align::kRight);
  table.AddColumn("PER TOKEN", Table::Align::kRight);
  table.AddColumn("TOKENS", Table::Align::kRight);
  table.AddColumn("GREEDY");
  table.AddColumn("CONTINUATION");
  for (int i = 0; i < response.scores_size(); ++i) {
    const v1::ContinuationScore& score = response.scores(i);
    const int tokens = std::max(score.tokens_size(), 1);
    table.AddRow({{absl::StrFormat("%.4f", score.logprob())},
                  {absl::StrFormat("%.4f", score.logprob() / tokens)},
                  {absl::StrCat(score.tokens_size())},
                  score.is_greedy() ? Table::Cell{"yes", Terminal::Style::kGreen} : Table::Cell{"no"},
                  {Quoted(continuations[static_cast<size_t>(i)])}});
  }
  return absl::StrJoin(table.Lines(terminal), "\n") + "\n";
}

absl::Status Score(const ScoreOptions& options, Session& session) {
  if (options.chat && (options.no_bos || options.parse_special)) {
    return absl::InvalidArgumentError("--no-bos and --parse-special do not apply to --chat: it has its own format");
  }
  if (options.jsonl) {
    if (options.context.has_argument || !options.context.file.empty() || !options.continuations.empty()) {
      return absl::InvalidArgumentError("--jsonl brings its own contexts and continuations");
    }
    BATON_RETURN_IF_ERROR(session.Connect());
    BATON_ASSIGN_OR_RETURN(const std::string model, ChooseModel(session));
    return ForEachJsonLine(*options.jsonl, options.parallel, session,
                           [&](const std::string& line) { return ScoreLine(options, model, line, session); });
  }

  if (options.continuations.empty()) {
    return absl::InvalidArgumentError("nothing to score: give one or more --continuation TEXT, or --jsonl PATH");
  }
  BATON_ASSIGN_OR_RETURN(const std::string context, ReadText(options.context, "context", session));
  BATON_RETURN_IF_ERROR(session.Connect());
  BATON_ASSIGN_OR_RETURN(const std::string model, ChooseModel(session));
  v1::ScoreRequest request = MakeRequest(options, model, context);
  for (const std::string& text : options.continuations) {
    BATON_RETURN_IF_ERROR(CheckUtf8(text, "continuation"));
    request.add_continuations()->set_text(text);
  }
  BATON_ASSIGN_OR_RETURN(const v1::ScoreResponse response, Call(request, session));
  Terminal& terminal = session.terminal();
  if (session.options.json) return terminal.Out(JsonLine(ToJson(response)));
  BATON_RETURN_IF_ERROR(terminal.Out(ScoreTable(response, options.continuations, terminal)));
  if (!options.logprobs && !options.top_logprobs) return absl::OkStatus();
  for (int i = 0; i < response.scores_size(); ++i) {
    const auto& tokens = response.scores(i).tokens();
    BATON_RETURN_IF_ERROR(
        terminal.Out(absl::StrCat("\n", Quoted(options.continuations[static_cast<size_t>(i)]), "\n",
                                  LogprobLines(std::vector<v1::TokenLogprob>(tokens.begin(), tokens.end())))));
  }
  return absl::OkStatus();
}

}  // namespace

Command AddScore(CLI::App& app, Session& session) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command = app.add_subcommand("score", "Log probabilities of given continuations");
  CLI::Option* argument = command->add_option("context", options->context.argument, "What comes before; may be empty")
                              ->type_name("CONTEXT");
  command->add_option("-f,--file", options->context.file, "Read the context from a file; - is standard input")
      ->type_name("PATH");
  command->add_option("-c,--continuation", options->continuations, "Text to score after the context; repeatable")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command
      ->add_option("--jsonl", options->jsonl,
                   R"(One {"context", "continuation"} a line in (- is standard input), one JSON object a line out)")
      ->type_name("PATH");
  command->add_option("--parallel", options->parallel, "Lines of --jsonl to have under way at once")
      ->type_name("N")
      ->check(CLI::Range(1, 256).description(""))
      ->capture_default_str();
  command->add_flag("--chat", options->chat, "The context is a user's message; continuations are the answer");
  command->add_flag("--no-bos", options->no_bos, "Do not begin with the BOS token");
  command->add_flag("--parse-special", options->parse_special,
                    "<start_of_turn> and the like in the context become control tokens");
  command->add_flag("--logprobs", options->logprobs, "Show every token (--json always does)");
  command->add_option("--top-logprobs", options->top_logprobs, "Show the K most likely tokens at each step, up to 20")
      ->type_name("K");
  command->add_option("--priority", options->priority, "-100 to 100; larger runs earlier")->type_name("N");
  return {command, [options, argument, &session] {
            options->context.has_argument = argument->count() > 0;
            return Score(*options, session);
          }};
}

}  // namespace baton::cli
