// Flags of the prefill worker that say how state leaves it.
#pragma once

#include <CLI/CLI.hpp>

#include "prefill/prefill_job.h"

namespace baton {

// `options` (whose values are the defaults) must outlive `app`.
void AddHandoffFlags(CLI::App& app, HandoffOptions* options);

}  // namespace baton
