#include "prefill/prefix_cache.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace baton {
namespace {

using Kind = LayerStateSpec::Kind;

// What keeping one more piece may cost others.
constexpr int kEvictionsToShare = 16;

int64_t BytesOf(absl::Span<const PageRef> pages) {
  int64_t bytes = 0;
  for (const PageRef& page : pages) bytes += page ? page.bytes() : 0;
  return bytes;
}

}  // namespace

PrefixCache::PrefixCache(std::shared_ptr<const StateLayout> layout, const PrefixCacheOptions& options,
                         OnResumePoint on_resume_point)
    : layout_(std::move(layout)), options_(options), on_resume_point_(std::move(on_resume_point)) {
  BATON_CHECK(layout_->page_tokens == kPrefixBlockTokens);
  for (const LayerStateSpec& spec : layout_->layers) {
    recurrent_ |= spec.kind == Kind::kRecurrent;
    cuts_needed_ |= spec.kind == Kind::kRecurrent ||
                    (spec.kind == Kind::kWindowKv && spec.visible_keys <= layout_->max_run_tokens + kPrefixBlockTokens);
  }
}

PrefixCache::~PrefixCache() = default;

std::vector<PrefixCache::Node*> PrefixCache::Match(const PrefixKey& key) const {
  std::vector<Node*> path;
  for (size_t i = 0; i < key.chain.size(); ++i) {
    const auto found = nodes_.find(key.chain[i]);
    if (found == nodes_.end()) break;
    Node* const node = found->second.get();
    // Equal hashes of different prompts would be somebody's work.
    const absl::Span<const int32_t> block = key.tokens.subspan(i * kPrefixBlockTokens, kPrefixBlockTokens);
    if (node->parent != (i == 0 ? nullptr : path.back()) || absl::MakeConstSpan(node->tokens) != block) break;
    if (i == 0 && node->salt != key.salt) break;
    path.push_back(node);
  }
  return path;
}

int64_t PrefixCache::FirstBlock(size_t layer, int64_t blocks) const {
  return layout_->FirstNeededPosition(layout_->layers[layer], blocks * kPrefixBlockTokens) / kPrefixBlockTokens;
}

bool PrefixCache::CanResume(absl::Span<Node* const> path) const {
  const int64_t blocks = static_cast<int64_t>(path.size());
  if (recurrent_) return !path.back()->recurrent.empty();  // which has the pages it needs
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
    for (int64_t block = blocks - 1; block >= FirstBlock(layer, blocks); --block) {
      if (!path[block]->pages[layer]) return false;
    }
  }
  return true;
}

int64_t PrefixCache::Find(const PrefixKey& key, int64_t limit) const {
  if (!enabled()) return 0;
  const std::vector<Node*> path = Match(key);
  for (int64_t blocks = std::min<int64_t>(path.size(), limit / kPrefixBlockTokens); blocks > 0; --blocks) {
    if (CanResume(absl::MakeConstSpan(path).first(blocks))) return blocks * kPrefixBlockTokens;
  }
  return 0;
}

absl::StatusOr<SequenceState> PrefixCache::Resume(const PrefixKey& key, int64_t cached, MemoryBudget& budget,
                                                  int64_t max_tokens) {
  const int64_t blocks = cached / kPrefixBlockTokens;
  std::vector<Node*> path = Match(key);
  BATON_CHECK(blocks >= 1 && blocks <= static_cast<int64_t>(path.size()));
  path.resize(blocks);
  StateSnapshot snapshot;
  snapshot.layout = layout_;
  snapshot.position = cached;
  snapshot.layers.resize(layout_->layers.size());
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
    StateSnapshot::Layer& to = snapshot.layers[layer];
    if (layout_->layers[layer].kind == Kind::kRecurrent) {
      to.recurrent = path.back()->recurrent[layer];
      continue;
    }
    to.first_page = FirstBlock(layer, blocks);
    for (int64_t block = to.first_page; block < blocks; ++block) to.pages.push_back(path[block]->pages[layer]);
  }
  absl::StatusOr<SequenceState> state = SequenceState::FromSnapshot(snapshot, budget, max_tokens);
  if (!state.ok()) return state;
  ++clock_;
  for (Node* node : path) {
    if (!recurrent_ || node == path.back()) Touch(node);
  }
  return state;
}

std::vector<int64_t> PrefixCache::CutsFor(const PrefixKey& key, int64_t begin, int64_t limit, int64_t end) const {
  std::vector<int64_t> cuts;
  if (!enabled() || !cuts_needed_) return cuts;
  const int64_t last = end / kPrefixBlockTokens * kPrefixBlockTokens;
  const int64_t again = limit / kPrefixBlockTokens * kPrefixBlockTokens;
  const int64_t known = static_cast<int64_t>(Match(key).size()) * kPrefixBlockTokens;
  for (const int64_t cut : {known, again, last}) {
    if (cut > begin && cut <= last) cuts.push_back(cut);
  }
  const int64_t every = options_.snapshot_blocks * kPrefixBlockTokens;
  if (recurrent_ && every > 0) {
    for (int64_t cut = (begin / every + 1) * every; cut < last; cut += every) cuts.push_back(cut);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

void PrefixCache::Add(const PrefixKey& key, absl::Span<const int64_t> cuts, SequenceState& state) {
  if (!enabled()) return;
  const int64_t blocks = state.position() / kPrefixBlockTokens;
  if (blocks == 0) return;
  ++clock_;
  if (!recurrent_) {
    AddPages(key, blocks, state);
  } else if (std::binary_search(cuts.begin(), cuts.end(), state.position())) {
    AddSnapshot(key, blocks, state);
  }
  while (bytes_ > options_.bytes && EvictOne()) {
  }
}

bool PrefixCache::LacksPages(const PrefixKey& key, int64_t blocks, const SequenceState& state) const {
  const std::vector<Node*> path = Match(key);
  if (static_cast<int64_t>(path.size()) < blocks) return true;
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
    // What the state does not have any more it cannot add.
    const int64_t first = state.FirstNeededPosition(static_cast<int>(layer), state.position()) / kPrefixBlockTokens;
    for (int64_t block = first; block < blocks; ++block) {
      if (!path[block]->pages[layer]) return true;
    }
  }
  return false;
}

void PrefixCache::AddPages(const PrefixKey& key, int64_t blocks, SequenceState& state) {
  if (LacksPages(key, blocks, state)) {
    const absl::StatusOr<StateSnapshot> snapshot = ShareEvicting([&] { return state.ShareFullPages(); });
    if (!snapshot.ok()) return;
    FillPages(AddPath(key, blocks), *snapshot);
  }
  std::vector<Node*> path = Match(key);
  path.resize(std::min<size_t>(path.size(), blocks));
  for (Node* node : path) Touch(node);
}

void PrefixCache::AddSnapshot(const PrefixKey& key, int64_t blocks, SequenceState& state) {
  const std::vector<Node*> known = Match(key);
  if (static_cast<int64_t>(known.size()) >= blocks && !known[blocks - 1]->recurrent.empty()) {
    Touch(known[blocks - 1]);
    return;
  }
  absl::StatusOr<StateSnapshot> snapshot = ShareEvicting([&] { return state.Snapshot(); });
  if (!snapshot.ok()) return;
  const std::vector<Node*> path = AddPath(key, blocks);
  if (static_cast<int64_t>(path.size()) < blocks) {
    if (!path.empty()) Prune(path.back());
    return;
  }
  FillPages(path, *snapshot);
  Node* const end = path.back();
  end->recurrent.resize(layout_->layers.size());
  int64_t first_block = blocks;
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
    if (layout_->layers[layer].kind == Kind::kRecurrent) {
      end->recurrent[layer] = std::move(snapshot->layers[layer].recurrent);
    } else {
      first_block = std::min(first_block, FirstBlock(layer, blocks));
    }
  }
  for (int64_t block = first_block; block < blocks; ++block) ++path[block]->snapshots;
  bytes_ += BytesOf(end->recurrent);
  Touch(end);
  if (on_resume_point_) on_resume_point_(end->hash, true);
}

absl::StatusOr<StateSnapshot> PrefixCache::ShareEvicting(absl::FunctionRef<absl::StatusOr<StateSnapshot>()> share) {
  absl::StatusOr<StateSnapshot> snapshot = share();
  for (int i = 0; i < kEvictionsToShare && absl::IsResourceExhausted(snapshot.status()) && EvictOne(); ++i) {
    snapshot = share();
  }
  return snapshot;
}

PrefixCache::Node* PrefixCache::AddNode(const PrefixKey& key, int64_t block, Node* parent) {
  auto node = std::make_unique<Node>();
  node->hash = key.chain[block];
  node->parent = parent;
  if (parent == nullptr) node->salt = key.salt;
  const absl::Span<const int32_t> tokens = key.tokens.subspan(block * kPrefixBlockTokens, kPrefixBlockTokens);
  node->tokens.assign(tokens.begin(), tokens.end());
  Node* const added = node.get();
  if (!nodes_.try_emplace(added->hash, std::move(node)).second) return nullptr;  // another prompt's hash
  if (parent != nullptr) {
    evictable_.erase({parent->last_use, parent});
    ++parent->children;
    Touch(parent);
  }
  if (!recurrent_) {
    added->pages.resize(layout_->layers.size());
    if (on_resume_point_) on_resume_point_(added->hash, true);
  }
  Touch(added);
  return added;
}

std::vector<PrefixCache::Node*> PrefixCache::AddPath(const PrefixKey& key, int64_t blocks) {
  std::vector<Node*> path = Match(key);
  path.resize(std::min<size_t>(path.size(), blocks));
  while (static_cast<int64_t>(path.size()) < blocks) {
    Node* const node = AddNode(key, static_cast<int64_t>(path.size()), path.empty() ? nullptr : path.back());
    if (node == nullptr) break;
    path.push_back(node);
  }
  return path;
}

void PrefixCache::FillPages(absl::Span<Node* const> path, const StateSnapshot& snapshot) {
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
    const StateSnapshot::Layer& from = snapshot.layers[layer];
    for (size_t i = 0; i < from.pages.size(); ++i) {
      const size_t block = static_cast<size_t>(from.first_page) + i;
      if (block >= path.size()) break;
      std::vector<PageRef>& pages = path[block]->pages;
      pages.resize(layout_->layers.size());
      if (pages[layer]) continue;
      pages[layer] = from.pages[i];
      bytes_ += pages[layer].bytes();
    }
  }
}

bool PrefixCache::IsEvictable(const Node& node) const {
  return recurrent_ ? !node.recurrent.empty() : node.children == 0;
}

void PrefixCache::Touch(Node* node) {
  evictable_.erase({node->last_use, node});
  node->last_use = clock_;
  if (IsEvictable(*node)) evictable_.insert({node->last_use, node});
}

bool PrefixCache::EvictOne() {
  if (evictable_.empty()) return false;
  Node* const node = evictable_.begin()->second;
  ++evictions_;
  if (recurrent_) {
    DropSnapshot(node);
    Prune(node);
  } else {
    Remove(node);
  }
  return true;
}

void PrefixCache::DropSnapshot(Node* node) {
  evictable_.erase({node->last_use, node});
  bytes_ -= BytesOf(node->recurrent);
  node->recurrent.clear();
  if (on_resume_point_) on_resume_point_(node->hash, false);

  int64_t blocks = 0;
  for (const Node* at = node; at != nullptr; at = at->parent) ++blocks;
  int64_t first_block = blocks;
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
    if (layout_->layers[layer].kind == Kind::kRecurrent) continue;
    first_block = std::min(first_block, FirstBlock(layer, blocks));
  }
  for (int64_t block = blocks - 1; block >= first_block; --block, node = node->parent) {
    if (--node->snapshots == 0) DropPages(node);
  }
}

void PrefixCache::DropPages(Node* node) {
  bytes_ -= BytesOf(node->pages);
  node->pages.clear();
}

void PrefixCache::Prune(Node* node) {
  while (node != nullptr && node->children == 0 && node->recurrent.empty() && node->snapshots == 0) {
    Node* const parent = node->parent;
    Remove(node);
    node = parent;
  }
}

void PrefixCache::Remove(Node* node) {
  evictable_.erase({node->last_use, node});
  DropPages(node);
  if (!recurrent_ && on_resume_point_) on_resume_point_(node->hash, false);
  if (Node* const parent = node->parent; parent != nullptr && --parent->children == 0 && IsEvictable(*parent)) {
    evictable_.insert({parent->last_use, parent});
  }
  nodes_.erase(node->hash);
}

}  // namespace baton
