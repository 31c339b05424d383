// baton key new: a fresh API key and the line of the gateway's --api-keys file that lets it in.
#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "common/base/full_io.h"
#include "common/base/status_macros.h"
#include "gateway/api_keys.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/json_output.h"

namespace baton::cli {
namespace {

struct KeyFlags {
  std::string client;
  std::vector<std::string> limits;
  std::string file;
};

// At the end of the file, on a line of its own, in one write, so that the gateway never reads a part of it.
absl::Status AppendLine(const std::string& path, const std::string& line) {
  const auto failed = [&path](int error) { return absl::ErrnoToStatus(error, absl::StrCat("cannot write to ", path)); };
  FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!file.is_open()) return failed(errno);
  char last = '\n';
  const off_t size = lseek(file.get(), 0, SEEK_END);
  if (size > 0 && pread(file.get(), &last, 1, size - 1) != 1) return failed(errno);
  const std::string text = absl::StrCat(last == '\n' ? "" : "\n", line, "\n");
  const int error = WriteAll(file.get(), text);
  return error == 0 ? absl::OkStatus() : failed(error);
}

absl::Status NewKey(const KeyFlags& flags, Session& session) {
  BATON_ASSIGN_OR_RETURN(const NewApiKey made, MakeApiKey(flags.client, flags.limits));
  if (!flags.file.empty()) BATON_RETURN_IF_ERROR(AppendLine(flags.file, made.line));
  if (session.options.json) return session.terminal().Out(JsonLine({{"key", made.key}, {"line", made.line}}));
  if (!flags.file.empty()) return session.terminal().Out(made.key + "\n");
  return session.terminal().Out(absl::StrCat("key   ", made.key, "\nline  ", made.line, "\n"));
}

}  // namespace

Command AddKey(CLI::App& app, Session& session) {
  CLI::App* command = app.add_subcommand("key", "Make API keys for a gateway");
  command->require_subcommand(1, 1);
  CLI::App* make =
      command->add_subcommand("new", "Make a key: shows it, this once, and the line for the gateway's --api-keys file");
  const auto flags = std::make_shared<KeyFlags>();
  make->add_option("name", flags->client, "The client it is for; logs and metrics show this name")->required();
  make->add_option("limits", flags->limits,
                   "NAME=VALUE: concurrent=N, requests_per_minute=N, tokens_per_minute=N, models=NAME,NAME, "
                   "max_priority=N, operator=yes, expires=YYYY-MM-DD");
  make->add_option("--file", flags->file, "Append the line to this file and show the key alone")->type_name("FILE");
  make->fallthrough();
  return {command, [flags, &session] { return NewKey(*flags, session); }};
}

}  // namespace baton::cli
