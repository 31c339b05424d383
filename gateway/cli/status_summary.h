// The upper part of `baton status`: what the gateway does now, did lately and since its start.
#pragma once

#include <string>
#include <vector>

#include "baton/v1/inference.pb.h"
#include "gateway/cli/status_view.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

// A piece of a line in one style.
struct StyledText {
  std::string text;
  Terminal::Style style = Terminal::Style::kPlain;
};
using StyledLine = std::vector<StyledText>;

// The line, cut to `width` columns; 0: not cut.
std::string PaintLine(const StyledLine& line, int width, const Terminal& terminal);

// Lines, the most important ones first.
std::vector<StyledLine> SummarizeStatus(const v1::GetStatusResponse& response, const StatusView& view);

}  // namespace baton::cli
