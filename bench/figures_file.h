// Where a benchmark's figures go, as its flags say: a file, standard output for "-", nowhere for "".
//
//   BATON_RETURN_IF_ERROR(CheckFiguresFile(flags.json_file));       // before minutes of measuring, not after
//   ...
//   return WriteFigures(flags.json_file, text);
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace baton {

// UNAVAILABLE when it cannot be written. A file that is there stays as it is, else there is an empty one.
absl::Status CheckFiguresFile(const std::string& path);
absl::Status WriteFigures(const std::string& path, absl::string_view text);

}  // namespace baton
