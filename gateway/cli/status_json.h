// The shape of `baton status --json`.
#pragma once

#include "gateway/cli/json_output.h"

namespace baton::cli {

Json ToJson(const v1::GetStatusResponse& response);

}  // namespace baton::cli
