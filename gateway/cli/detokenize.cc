// baton detokenize: token ids to text.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "gateway/cli/answer.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/input.h"
#include "gateway/cli/json_lines.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/prompt.h"
#include "gateway/cli/token_source.h"

namespace baton::cli {
namespace {

struct DetokenizeOptions {
  std::vector<std::string> ids;
  std::string file;
  bool jsonl = false;
  bool keep_special = false;
  std::string model_dir;
};

absl::StatusOr<std::string> TextOf(const std::string& ids, const DetokenizeOptions& options, TokenSource& source) {
  BATON_ASSIGN_OR_RETURN(const std::vector<int32_t> parsed, ParseTokenIds(ids));
  v1::DetokenizeRequest request;
  request.mutable_ids()->Add(parsed.begin(), parsed.end());
  request.set_keep_special(options.keep_special);
  BATON_ASSIGN_OR_RETURN(v1::DetokenizeResponse response, source.Detokenize(std::move(request)));
  return std::move(*response.mutable_text());
}

absl::Status Detokenize(const DetokenizeOptions& options, Session& session) {
  if (options.jsonl && !options.ids.empty()) {
    return absl::InvalidArgumentError("--jsonl reads --file or standard input, not arguments");
  }
  if (options.jsonl) {
    BATON_ASSIGN_OR_RETURN(const std::unique_ptr<TokenSource> source, TokenSource::Make(options.model_dir, session));
    return ForEachJsonLine(options.file.empty() ? "-" : options.file, source->parallel(), session,
                           [&](const std::string& line) -> absl::StatusOr<std::string> {
                             BATON_ASSIGN_OR_RETURN(const std::string text, TextOf(line, options, *source));
                             return JsonLine(text);
                           });
  }
  TextSource ids;
  ids.has_argument = !options.ids.empty();
  ids.argument = absl::StrJoin(options.ids, " ");
  ids.file = options.file;
  BATON_ASSIGN_OR_RETURN(const std::string list, ReadText(ids, "list of token ids", session));
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<TokenSource> source, TokenSource::Make(options.model_dir, session));
  BATON_ASSIGN_OR_RETURN(const std::string text, TextOf(list, options, *source));
  if (session.options.json) return session.terminal().Out(JsonLine({{"text", text}}));
  TextPrinter printer(session.terminal());
  BATON_RETURN_IF_ERROR(printer.Print(text));
  return printer.EndLine();
}

}  // namespace

Command AddDetokenize(CLI::App& app, Session& session) {
  auto options = std::make_shared<DetokenizeOptions>();
  CLI::App* command = app.add_subcommand("detokenize", "Token ids to text");
  command->add_option("ids", options->ids, "Token ids; left out: --file or standard input")->type_name("ID");
  command->add_option("-f,--file", options->file, "Read the ids from a file; - is standard input")->type_name("PATH");
  command->add_flag("--jsonl", options->jsonl, "One array of ids a line in, one JSON string a line out");
  command->add_flag("--keep-special", options->keep_special, "Show control tokens by name");
  command->add_option("--model-dir", options->model_dir, "Work offline with this checkpoint's tokenizer.model")
      ->type_name("DIR");
  return {command, [options, &session] { return Detokenize(*options, session); }};
}

}  // namespace baton::cli
