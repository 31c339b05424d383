// `baton status` as lines of text: what the gateway does, and a table of its workers that fits the screen. Narrow
// screens lose the less important columns, low ones the less important lines, and what is left of the workers can be
// scrolled.
//
//   StatusPicture picture = DrawStatus(response, view, {.gateway = "10.0.0.1:7000", .width = 80, .rows = 24},
//   terminal); screen.Draw(picture.lines);
#pragma once

#include <string>
#include <vector>

#include "baton/v1/inference.pb.h"
#include "gateway/cli/status_view.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

struct StatusPictureOptions {
  // Its address.
  std::string gateway;
  // 0: no limit.
  int width = 0;
  int rows = 0;
  // For a person who watches: with keys, and marks of what they have chosen.
  bool live = false;
  // Bars of block characters, on a terminal; else numbers.
  bool bars = false;
  // Why there is nothing newer; empty: there is.
  std::string trouble;
};

struct StatusPicture {
  // Without newlines, none wider than the screen, no more than it has rows.
  std::vector<std::string> lines;
  // Workers that there is room for, and the first one shown.
  int page = 0;
  int first = 0;
};

StatusPicture DrawStatus(const v1::GetStatusResponse& response, const StatusView& view,
                         const StatusPictureOptions& options, const Terminal& terminal);

}  // namespace baton::cli
