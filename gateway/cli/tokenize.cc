// baton tokenize: text to token ids.
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/format.h"
#include "gateway/cli/input.h"
#include "gateway/cli/json_lines.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/prompt.h"
#include "gateway/cli/token_source.h"

namespace baton::cli {
namespace {

struct TokenizeOptions {
  TextSource text;
  bool jsonl = false;
  std::string model_dir;
  bool chat = false;
  bool no_bos = false;
  bool parse_special = false;
  bool pieces = false;
};

v1::TokenizeRequest MakeRequest(const TokenizeOptions& options, const std::string& text) {
  v1::TokenizeRequest request;
  if (options.chat) {
    *request.mutable_chat() = OneMessage(text);
  } else {
    *request.mutable_text() = PlainText(text, options.no_bos, options.parse_special);
  }
  return request;
}

std::string IdLine(const v1::TokenizeResponse& response) { return absl::StrJoin(response.ids(), " ") + "\n"; }

std::string PieceLines(const v1::TokenizeResponse& response) {
  std::string text;
  for (int i = 0; i < response.ids_size(); ++i) {
    const std::string piece = i < response.pieces_size() ? Quoted(response.pieces(i)) : "";
    absl::StrAppend(&text, response.ids(i), "\t", piece, "\n");
  }
  return text;
}

absl::Status Tokenize(const TokenizeOptions& options, Session& session) {
  if (options.chat && (options.no_bos || options.parse_special)) {
    return absl::InvalidArgumentError("--no-bos and --parse-special do not apply to --chat: it has its own format");
  }
  if (options.jsonl && options.text.has_argument) {
    return absl::InvalidArgumentError("--jsonl reads --file or standard input, not an argument");
  }
  if (options.jsonl) {
    BATON_ASSIGN_OR_RETURN(const std::unique_ptr<TokenSource> source, TokenSource::Make(options.model_dir, session));
    return ForEachJsonLine(options.text.file.empty() ? "-" : options.text.file, source->parallel(), session,
                           [&](const std::string& line) -> absl::StatusOr<std::string> {
                             BATON_ASSIGN_OR_RETURN(const std::string text, ParseJsonString(line));
                             BATON_ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                                                    source->Tokenize(MakeRequest(options, text)));
                             return absl::StrCat("[", absl::StrJoin(response.ids(), ","), "]\n");
                           });
  }
  BATON_ASSIGN_OR_RETURN(const std::string text, ReadText(options.text, "text", session));
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<TokenSource> source, TokenSource::Make(options.model_dir, session));
  BATON_ASSIGN_OR_RETURN(const v1::TokenizeResponse response, source->Tokenize(MakeRequest(options, text)));
  Terminal& terminal = session.terminal();
  if (session.options.json) {
    Json out = {{"ids", Json::array()}, {"pieces", Json::array()}};
    for (const int32_t id : response.ids()) out["ids"].push_back(id);
    for (const std::string& piece : response.pieces()) out["pieces"].push_back(piece);
    return terminal.Out(JsonLine(out));
  }
  return terminal.Out(options.pieces ? PieceLines(response) : IdLine(response));
}

}  // namespace

Command AddTokenize(CLI::App& app, Session& session) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids");
  CLI::Option* argument =
      command->add_option("text", options->text.argument, "The text; left out: --file or standard input")
          ->type_name("TEXT");
  command->add_option("-f,--file", options->text.file, "Read the text from a file; - is standard input")
      ->type_name("PATH");
  command->add_flag("--jsonl", options->jsonl, "One JSON string a line in, one array of ids a line out");
  command->add_option("--model-dir", options->model_dir, "Work offline with this checkpoint's tokenizer.model")
      ->type_name("DIR");
  command->add_flag("--chat", options->chat, "The text is a user's message");
  command->add_flag("--no-bos", options->no_bos, "Do not begin with the BOS token");
  command->add_flag("--parse-special", options->parse_special, "<start_of_turn> and the like become control tokens");
  command->add_flag("--pieces", options->pieces, "One token a line with its piece");
  return {command, [options, argument, &session] {
            options->text.has_argument = argument->count() > 0;
            return Tokenize(*options, session);
          }};
}

}  // namespace baton::cli
