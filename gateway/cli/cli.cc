#include "gateway/cli/cli.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/version.h"
#include "common/rpc/real_range.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/exit_code.h"
#include "gateway/cli/failure.h"
#include "gateway/cli/format.h"
#include "gateway/cli/session.h"

namespace baton::cli {
namespace {

constexpr char kFooter[] = R"(Examples:
  baton generate "What is the capital of France?"
  git diff | baton generate --file - --max-new-tokens 64
  baton score "The capital of France is" -c " Paris" -c " London" --json
  baton COMMAND --help

Environment:
  BATON_GATEWAY, BATON_MODEL   defaults of --gateway and --model
  BATON_API_KEY, BATON_API_KEY_FILE   defaults of --api-key and --api-key-file
  BATON_TLS_CA, BATON_TLS_CERT, BATON_TLS_KEY, BATON_TLS_SERVER_NAME   defaults of --tls-...
  NO_COLOR                     as --no-color

Exit codes:
  0 ok    1 the gateway or something here failed    2 usage    3 gateway unreachable
  4 overloaded, try again later    5 deadline passed    130 interrupted
  141 whoever read the output went away)";

void AddGlobalOptions(CLI::App& app, GlobalOptions* options, bool* no_color) {
  app.add_option("--gateway", options->gateway, "Address of the gateway (default 127.0.0.1:7000)")
      ->type_name("HOST:PORT")
      ->envname("BATON_GATEWAY");
  app.add_option("--api-key", options->api_key,
                 "Key for the gateway; other users of this machine may see it on the command line, but not in "
                 "BATON_API_KEY or a file")
      ->type_name("KEY")
      ->envname("BATON_API_KEY");
  app.add_option("--api-key-file", options->api_key_file, "File that holds the key alone; goes before --api-key")
      ->type_name("FILE")
      ->envname("BATON_API_KEY_FILE");
  AddClientTlsFlags(app, &options->tls);
  app.add_option("-m,--model", options->model,
                 "Model to use. Left out: the only one; of several, the first by name at a terminal and an error in "
                 "scripts")
      ->type_name("NAME")
      ->envname("BATON_MODEL");
  app.add_flag("--json", options->json, "Output for machines: one JSON object, or one a line when streaming");
  app.add_option("--timeout", options->timeout_seconds, "Give up after this long")
      ->type_name("SECONDS")
      ->check(RealRange(0.001, 1e6).description(""));
  app.add_flag("--no-color", *no_color, "No colours on a terminal");
}

bool ColorAllowed(bool no_color) {
  const char* no_color_variable = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool dumb = term != nullptr && std::string(term) == "dumb";
  return !no_color && (no_color_variable == nullptr || *no_color_variable == '\0') && !dumb;
}

// What was wrong with the command line, in one line.
std::string UsageMessage(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  const std::string help =
      chosen.empty() ? "baton --help" : absl::StrCat("baton ", chosen.front()->get_name(), " --help");
  const std::vector<std::string> rest = app.remaining(/*recurse=*/true);
  if (!rest.empty()) {
    const bool option = rest.front().size() > 1 && rest.front().front() == '-';
    if (option) return absl::StrCat("there is no option ", rest.front(), "; see `", help, "`");
    if (chosen.empty()) return absl::StrCat("there is no command ", Quoted(rest.front()), "; `", help, "` lists them");
    return absl::StrCat("unexpected argument ", Quoted(rest.front()), "; a text of several words needs quotes; see `",
                        help, "`");
  }
  std::string message = error.what();
  std::replace(message.begin(), message.end(), '\n', ' ');
  return absl::StrCat(message, "; see `", help, "`");
}

}  // namespace

int RunCli(std::vector<std::string> arguments, Terminal& terminal, Interrupt& interrupt) {
  CLI::App app("Baton's command line client: text from Gemma and RecurrentGemma models behind a Baton gateway.",
               "baton");
  app.footer(kFooter);
  app.require_subcommand(1, 1);
  app.fallthrough();
  app.set_version_flag("--version", absl::StrCat("baton ", kVersion), "Show this program's version");
  app.set_help_flag("-h,--help", "Show this help");
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  app.get_formatter()->label("Subcommands", "Commands");

  Session session(terminal, interrupt);
  bool no_color = false;
  AddGlobalOptions(app, &session.options, &no_color);
  const std::vector<Command> commands = {
      AddGenerate(app, session),   AddChat(app, session),   AddScore(app, session),  AddTokenize(app, session),
      AddDetokenize(app, session), AddModels(app, session), AddStatus(app, session), AddTrace(app, session),
      AddHealth(app, session),     AddSynth(app, session),  AddPack(app, session),   AddKey(app, session),
      AddVersion(app, session),
  };
  for (const Command& command : commands) {
    command.app->fallthrough();
    command.app->footer(
        "The options of `baton --help` work here too: --gateway, --api-key, --tls-ca, --model, --json, --timeout, "
        "--no-color.");
  }

  const bool bare = arguments.empty();
  std::reverse(arguments.begin(), arguments.end());
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::Success& asked) {
    std::ostringstream text;
    app.exit(asked, text, text);
    const absl::Status written = terminal.Out(text.str());
    return written.ok() ? kExitOk : ReportFailure(written, session);
  } catch (const CLI::ParseError& error) {
    terminal.AllowColor(ColorAllowed(no_color));
    if (bare) {
      terminal.Note(app.help());
      return kExitUsage;
    }
    return ReportFailure(absl::InvalidArgumentError(UsageMessage(app, error)), session);
  }
  terminal.AllowColor(ColorAllowed(no_color));

  const auto chosen =
      std::find_if(commands.begin(), commands.end(), [](const Command& command) { return command.app->parsed(); });
  const absl::Status status = chosen->run();
  return status.ok() ? kExitOk : ReportFailure(status, session);
}

}  // namespace baton::cli
