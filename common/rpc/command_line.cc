#include "common/rpc/command_line.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_replace.h"
#include "common/base/host_port.h"

namespace baton {

CLI::Validator IsHostPort() {
  return CLI::Validator([](std::string& text) { return HostPortProblem(text); }, "", "IsHostPort");
}

absl::optional<int> ParseCommandLine(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
    return absl::nullopt;
  } catch (const CLI::Success& request) {
    return app.exit(request);  // --help, --version
  } catch (const CLI::ParseError& error) {
    const std::string message = absl::StrReplaceAll(error.what(), {{"\n", " "}});
    std::fprintf(stderr, "%s: %s (see --help)\n", app.get_name().c_str(), message.c_str());
    return 2;
  }
}

}  // namespace baton
