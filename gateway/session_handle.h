// The handle of a kept session, as clients know it: 48 hex digits, the boot id of the decode worker that kept it and
// the session's id. The id is what makes it unguessable; the worker's only says where to ask first.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace baton {

struct SessionHandle {
  std::string boot_id;
  // kSessionIdBytes raw bytes.
  std::string id;
};

std::string MakeSessionHandle(absl::string_view boot_id, absl::string_view id);
// Absent for anything that MakeSessionHandle does not make.
absl::optional<SessionHandle> ParseSessionHandle(absl::string_view text);

}  // namespace baton
