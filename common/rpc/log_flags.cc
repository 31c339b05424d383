#include "common/rpc/log_flags.h"

#include <string>

namespace baton {

void AddLogFlags(CLI::App& app, LogFlags* flags) {
  app.add_option_function<std::string>(
         "--log-format",
         [flags](const std::string& text) {
           if (text != "text" && text != "json") {
             throw CLI::ValidationError("--log-format", "expected text or json, got \"" + text + "\"");
           }
           flags->json = text == "json";
         },
         "Form of the log lines on stderr")
      ->type_name("text|json")
      ->default_str("text");
  app.add_option_function<std::string>(
         "--log-level",
         [flags](const std::string& text) {
           if (!ParseSeverity(text, &flags->level)) {
             throw CLI::ValidationError("--log-level", "expected debug, info, warning or error, got \"" + text + "\"");
           }
         },
         "Least severity that is logged: debug, info, warning or error")
      ->type_name("LEVEL")
      ->default_str("info");
}

}  // namespace baton
