#include "gateway/model_catalog.h"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

bool SameForCatalog(const WorkerSnapshot& a, const WorkerSnapshot& b) {
  return a.state == b.state && a.info == b.info && a.tokenizer == b.tokenizer;
}

}  // namespace

v1::GenerationDefaults DefaultsOf(const worker::v1::Generation& generation) {
  v1::GenerationDefaults defaults;
  const bool greedy = generation.has_do_sample() && !generation.do_sample();
  defaults.set_temperature(greedy ? 0.0f : generation.has_temperature() ? generation.temperature() : 1.0f);
  defaults.set_top_k(generation.has_top_k() ? generation.top_k() : 0);
  defaults.set_top_p(generation.has_top_p() ? generation.top_p() : 1.0f);
  const bool has_length = generation.has_max_new_tokens() && generation.max_new_tokens() > 0;
  defaults.set_max_new_tokens(has_length ? generation.max_new_tokens() : kDefaultMaxNewTokens);
  return defaults;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ModelCatalog::Find(const std::string& name,
                                                                      const ClientLimits& limits) const {
  if (!name.empty() && !limits.AllowsModel(name)) {
    return WithReason(absl::PermissionDeniedError(absl::StrCat("this API key may not use model \"", name,
                                                               "\"; it may use: ", absl::StrJoin(limits.models, ", "))),
                      "MODEL_NOT_ALLOWED");
  }
  if (!name.empty()) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = models_.find(name);
    if (found != models_.end()) return found->second;
  }
  const std::vector<std::shared_ptr<const ServedModel>> models = Models(limits);
  if (models.empty()) {
    std::lock_guard<std::mutex> lock(mutex_);
    const absl::Status status =
        models_.empty() ? absl::UnavailableError(absl::StrCat("no worker has answered yet: of ", workers_.size(),
                                                              " known to this gateway none is reachable"))
                        : absl::UnavailableError("no worker of a model that this API key may use has answered yet");
    return WithRetryAfter(status, absl::Seconds(1), "NO_WORKERS");
  }
  if (name.empty() && models.size() == 1) return models.front();
  const std::string names =
      absl::StrJoin(models, ", ", [](std::string* out, const auto& model) { absl::StrAppend(out, model->name); });
  if (name.empty()) {
    return WithReason(
        BadRequestError({{"model", absl::StrCat("is empty, and this gateway serves several models: ", names)}}),
        "MODEL_AMBIGUOUS");
  }
  return WithReason(absl::NotFoundError(absl::StrCat("model \"", name, "\" is not served here; models: ", names)),
                    "MODEL_NOT_FOUND");
}

std::vector<std::shared_ptr<const ServedModel>> ModelCatalog::Models(const ClientLimits& limits) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<const ServedModel>> models;
  models.reserve(models_.size());
  for (const auto& [name, model] : models_) {
    if (limits.AllowsModel(name)) models.push_back(model);
  }
  return models;
}

void ModelCatalog::OnWorker(const WorkerSnapshot& snapshot) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto [entry, is_new] = workers_.emplace(Key(snapshot.stage, snapshot.endpoint), snapshot);
  if (!is_new && SameForCatalog(entry->second, snapshot)) return;
  entry->second = snapshot;
  Rebuild();
}

void ModelCatalog::OnWorkerRemoved(const std::string& endpoint, Stage stage) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (workers_.erase(Key(stage, endpoint)) > 0) Rebuild();
}

void ModelCatalog::Rebuild() {
  WorkerCounts counts;
  std::set<std::string> names;
  for (const auto& [key, worker] : workers_) {
    const std::string model = worker.info == nullptr ? kUnknownModel : worker.info->model_name();
    if (worker.info != nullptr) names.insert(model);
    ++counts[{model, key.first, worker.state}];
  }
  metrics_->SetWorkers(counts);
  // A model none of whose workers is listed any more keeps its last description, without workers.
  for (auto& [name, model] : models_) {
    if (names.count(name) > 0) continue;
    auto absent = std::make_shared<ServedModel>(*model);
    absent->prefill_workers = 0;
    absent->decode_workers = 0;
    model = std::move(absent);
  }
  for (const std::string& name : names) models_[name] = Describe(name);
}

int64_t ModelCatalog::LongestPieceBytes(const std::shared_ptr<const Tokenizer>& tokenizer) {
  if (tokenizer == nullptr) return 0;
  const auto [entry, is_new] = longest_pieces_.emplace(tokenizer, 0);
  if (is_new) {
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      const int64_t bytes = static_cast<int64_t>(tokenizer->TokenBytes(id, /*keep_special=*/true).size());
      entry->second = std::max(entry->second, bytes);
    }
  }
  return entry->second;
}

std::shared_ptr<const ServedModel> ModelCatalog::Describe(const std::string& name) {
  struct Group {
    int prefill = 0;
    int decode = 0;
    int64_t max_tokens = std::numeric_limits<int64_t>::max();
    const WorkerSnapshot* first = nullptr;
  };
  std::map<std::string, Group> groups;
  for (const auto& [key, worker] : workers_) {
    if (worker.info == nullptr || worker.info->model_name() != name) continue;
    Group& group = groups[worker.info->fingerprint()];
    const bool serving = worker.state == WorkerState::kServing;
    if (serving) {
      ++(key.first == Stage::kPrefill ? group.prefill : group.decode);
      group.max_tokens = std::min<int64_t>(group.max_tokens, worker.info->max_tokens());
    }
    const bool better = group.first == nullptr || (serving && group.first->state != WorkerState::kServing);
    if (better) group.first = &worker;
  }
  const auto rank = [](const auto& entry) {
    const Group& group = entry.second;
    return std::make_tuple(group.prefill > 0 && group.decode > 0, group.prefill + group.decode);
  };
  const auto chosen =
      std::max_element(groups.begin(), groups.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  int serving_groups = 0;
  for (const auto& [fingerprint, group] : groups) serving_groups += group.prefill + group.decode > 0 ? 1 : 0;
  int& warned = fingerprints_warned_[name];
  if (serving_groups > 1 && warned != serving_groups) {
    Log(Severity::kWarning, "model_has_several_fingerprints")
        .With("model", name)
        .With("fingerprints", serving_groups)
        .With("hint", "workers of one name should load the same checkpoint with the same --weights");
  }
  warned = serving_groups;

  const Group& group = chosen->second;
  const worker::v1::WorkerInfo& info = *group.first->info;
  auto model = std::make_shared<ServedModel>();
  model->name = name;
  model->fingerprint = info.fingerprint();
  model->family = info.family();
  model->compute = info.compute();
  model->weights = info.weights();
  model->vocab_size = info.vocab_size();
  model->max_tokens = std::min<int64_t>(group.max_tokens, info.max_tokens());
  model->parameters = info.parameters();
  model->generation = info.generation();
  model->tokenizer = group.first->tokenizer;
  model->longest_piece_bytes = LongestPieceBytes(model->tokenizer);
  model->metrics = metrics_->ForModel(name);
  model->prefill_workers = group.prefill;
  model->decode_workers = group.decode;
  return model;
}

}  // namespace baton
