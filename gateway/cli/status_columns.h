// The columns of `baton status`: what each says of a worker, and how workers are sorted by it.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "baton/v1/inference.pb.h"
#include "gateway/cli/format.h"

namespace baton::cli {

struct StatusColumn {
  // As --sort has it.
  const char* name;
  const char* title;
  Table::Align align;
  // Where the screen is too narrow for all, columns with less of it go first.
  int importance;
  Table::Cell (*cell)(const v1::WorkerStatus& worker);
  // What workers are sorted by: text from A on, or numbers, largest first. One of them is null.
  std::string (*text)(const v1::WorkerStatus& worker);
  double (*number)(const v1::WorkerStatus& worker);
};

// From left to right.
absl::Span<const StatusColumn> StatusColumns();
// Its place among them; -1: there is none.
int FindStatusColumn(absl::string_view name);
// "model, role, ...".
std::string StatusColumnNames();

// Equal ones by model, prefill first, and endpoint.
void SortWorkers(int column, bool reversed, std::vector<const v1::WorkerStatus*>* workers);

// Of names that come from elsewhere: one line of ASCII, each other character as one U+FFFD, so that its width is known.
std::string PlainName(absl::string_view text);
// Used part of the state memory, in [0, 1]; negative: the worker has told of none.
double MemoryShare(const v1::WorkerStatus& worker);
Terminal::Style MemoryStyle(double share);

}  // namespace baton::cli
