// The subcommands of `baton`. Each Add... function declares one with its flags on the application and returns what runs
// when it was chosen; the result's status decides the exit code (see exit_code.h).
#pragma once

#include <functional>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "gateway/cli/session.h"

namespace baton::cli {

struct Command {
  CLI::App* app = nullptr;
  std::function<absl::Status()> run;
};

// `session` must outlive `app` and the results.
Command AddGenerate(CLI::App& app, Session& session);
Command AddChat(CLI::App& app, Session& session);
Command AddScore(CLI::App& app, Session& session);
Command AddTokenize(CLI::App& app, Session& session);
Command AddDetokenize(CLI::App& app, Session& session);
Command AddModels(CLI::App& app, Session& session);
Command AddStatus(CLI::App& app, Session& session);
Command AddTrace(CLI::App& app, Session& session);
Command AddHealth(CLI::App& app, Session& session);
Command AddSynth(CLI::App& app, Session& session);
Command AddPack(CLI::App& app, Session& session);
Command AddKey(CLI::App& app, Session& session);
Command AddVersion(CLI::App& app, Session& session);

}  // namespace baton::cli
