#include <string>
#include <vector>

#include <unistd.h>

#include "gateway/cli/cli.h"

int main(int argc, char** argv) {
  baton::cli::Interrupt interrupt;
  interrupt.ListenToSignals();
  baton::cli::Terminal terminal(STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO);
  return baton::cli::RunCli(std::vector<std::string>(argv + 1, argv + argc), terminal, interrupt);
}
