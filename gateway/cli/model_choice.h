// Which model a command uses when --model was not given and the gateway serves several.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "gateway/cli/session.h"

namespace baton::cli {

// --model if given. Otherwise, for a person at a terminal: the first ready model by name, with a note when there are
// others. Otherwise empty: the gateway takes its only model, and refuses to guess among several, so that a script never
// changes its model silently when one is added.
absl::StatusOr<std::string> ChooseModel(Session& session);

}  // namespace baton::cli
