// The timeline of a request as lines of text: a row for each span and each event, indented by parent, with a bar where
// it lies in the whole.
//
//   for (const std::string& line : TracePicture(response, terminal, {.width = terminal.columns()})) ...
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "baton/v1/inference.pb.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

struct TracePictureOptions {
  // Columns to fit into; names and bars give way.
  int width = 100;
  // Bars of block characters instead of ASCII.
  bool blocks = false;
  // How long requests have run that still do; 0: as long as is known from them.
  uint64_t now_unix_nanos = 0;
  // A line below each span with all that is known of it.
  bool attributes = false;
};

// Without newlines. At least the request's own span must be there.
std::vector<std::string> TracePicture(const v1::GetTraceResponse& response, const Terminal& terminal,
                                      const TracePictureOptions& options);

}  // namespace baton::cli
