// What the person who watches `baton status` has chosen, and what keys make of it.
//
//   StatusView view;
//   for (const int key : event.keys) {
//     if (!view.Obey(key, response)) break;          // leave
//   }
#pragma once

#include <string>
#include <vector>

#include "baton/v1/inference.pb.h"

namespace baton::cli {

// Seconds that recent figures may go back, and those that one can choose from while watching.
inline constexpr double kShortestStatusWindow = 1;
inline constexpr double kLongestStatusWindow = 60;

struct StatusView {
  enum class Role { kAll, kPrefill, kDecode };

  // Of StatusColumns().
  int sort = 0;
  bool reversed = false;
  Role role = Role::kAll;
  // Only this one's workers and figures; empty: all models'.
  std::string model;
  // First worker that is shown, of those that pass the filters.
  int first = 0;
  bool help = false;
  bool paused = false;
  double interval_seconds = 1;
  double window_seconds = 10;
  // How many workers the screen has room for.
  int page = 1;

  // False: leave. Keys that mean nothing do nothing.
  bool Obey(int key, const v1::GetStatusResponse& response);
  // Those that pass the filters, sorted.
  std::vector<const v1::WorkerStatus*> Workers(const v1::GetStatusResponse& response) const;
};

// "all", "prefill", "decode".
const char* StatusRoleName(StatusView::Role role);

// What `?` shows.
std::vector<std::string> StatusHelp();

}  // namespace baton::cli
