#include "gateway/cli/model_choice.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace baton::cli {

absl::StatusOr<std::string> ChooseModel(Session& session) {
  if (!session.options.model.empty() || !session.interactive()) return session.options.model;
  BATON_RETURN_IF_ERROR(session.Connect());
  v1::ListModelsResponse models;
  BATON_RETURN_IF_ERROR(session.Call(
      [&](grpc::ClientContext* context) { return session.inference().ListModels(context, {}, &models); }, kQuickCall));
  std::vector<std::string> ready;
  for (const v1::ModelCard& card : models.models()) {
    if (card.ready()) ready.push_back(card.name());
  }
  // None: the gateway says why.
  if (ready.empty()) return std::string();
  std::sort(ready.begin(), ready.end());
  if (ready.size() > 1) {
    const std::string others = absl::StrJoin(ready.begin() + 1, ready.end(), ", ");
    Terminal& terminal = session.terminal();
    terminal.Note(terminal.PaintNote(Terminal::Style::kDim,
                                     absl::StrCat("using ", ready.front(), "; --model chooses another: ", others)) +
                  "\n");
  }
  return ready.front();
}

}  // namespace baton::cli
