// baton models: what the gateway serves.
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/format.h"
#include "gateway/cli/json_output.h"

namespace baton::cli {
namespace {

// Enough of a fingerprint to tell models apart.
constexpr size_t kFingerprintDigits = 12;

absl::Status Models(Session& session) {
  BATON_RETURN_IF_ERROR(session.Connect());
  v1::ListModelsResponse response;
  BATON_RETURN_IF_ERROR(
      session.Call([&](grpc::ClientContext* context) { return session.inference().ListModels(context, {}, &response); },
                   kQuickCall));
  Terminal& terminal = session.terminal();
  if (session.options.json) return terminal.Out(JsonLine(ToJson(response)));
  if (response.models().empty()) {
    terminal.Note("no models: the gateway has not heard from any worker; `baton status` shows them\n");
    return absl::OkStatus();
  }
  Table table;
  table.AddColumn("MODEL");
  table.AddColumn("STATE");
  table.AddColumn("FAMILY");
  table.AddColumn("PARAMETERS", Table::Align::kRight);
  table.AddColumn("CONTEXT", Table::Align::kRight);
  table.AddColumn("WEIGHTS");
  table.AddColumn("PREFILL", Table::Align::kRight);
  table.AddColumn("DECODE", Table::Align::kRight);
  table.AddColumn("FINGERPRINT");
  for (const v1::ModelCard& card : response.models()) {
    table.AddRow({{WithoutControls(card.name())},
                  card.ready() ? Table::Cell{"ready", Terminal::Style::kGreen}
                               : Table::Cell{"not ready", Terminal::Style::kYellow},
                  {card.family()},
                  {FormatCount(card.parameters())},
                  {absl::StrCat(card.max_tokens())},
                  {card.weights()},
                  {absl::StrCat(card.prefill_workers())},
                  {absl::StrCat(card.decode_workers())},
                  {card.fingerprint().substr(0, kFingerprintDigits), Terminal::Style::kDim}});
  }
  for (const std::string& line : table.Lines(terminal)) BATON_RETURN_IF_ERROR(terminal.Out(line + "\n"));
  return absl::OkStatus();
}

}  // namespace

Command AddModels(CLI::App& app, Session& session) {
  CLI::App* command = app.add_subcommand("models", "List what the gateway serves");
  return {command, [&session] { return Models(session); }};
}

}  // namespace baton::cli
