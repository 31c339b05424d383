// `baton`, the command line client: parses the command line, runs one subcommand, reports its failure.
#pragma once

#include <string>
#include <vector>

#include "gateway/cli/interrupt.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

// `arguments` without the program's name. The exit code.
int RunCli(std::vector<std::string> arguments, Terminal& terminal, Interrupt& interrupt);

}  // namespace baton::cli
