// Beginnings of prompts that were computed here, kept so that prompts which begin alike go on from there. Tests:
// tests/prefill/prefix_cache_test.cc; that a hit changes no bit: tests/prefill/prefix_hit_test.cc.
//
// The cache is a tree of blocks of 64 tokens. A block holds the KV pages of its positions, shared by reference with the
// states that computed or use them; pages are charged to the worker's budget once, and the cache gives them back when a
// reservation needs room (EvictOne), so nobody is refused memory because of it.
//
// Where a state can go on ("resume points"):
//  * Models without recurrent layers: at the end of every block whose window pages are there too.
//  * Models with recurrent layers: where a snapshot of the recurrent vectors was taken. Snapshots are placed where they
//    pay (CutsFor): at the end of the prompt's last whole block, which the next turn of a conversation begins with, and
//    at the last that the same prompt could go on from (a scored one: at the end of its context); where the prompt
//    leaves what is cached, which others that begin alike will do too; and every `snapshot_blocks` blocks. Only pages
//    that some snapshot's window reaches are kept.
//
// What is evicted: without recurrent layers the leaf used longest ago, so descendants go before their ancestors;
// with them the snapshot used longest ago, with the pages that only it needs.
//
// The engine thread's own; not thread-safe.
//
//   PrefixKey key(fingerprint, salt, tokens);
//   const int64_t cached = cache.Find(key, limit);              // tokens that need not be computed
//   absl::StatusOr<SequenceState> state = cache.Resume(key, cached, budget, capacity);
//   cache.Add(key, *state);                                     // after every chunk
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/state/prefix_chain.h"
#include "common/state/sequence_state.h"

namespace baton {

struct PrefixCacheOptions {
  // Most bytes of pages and snapshots; 0: off.
  int64_t bytes = 0;
  // Blocks between snapshots on the way through a prompt; 0: none there.
  int64_t snapshot_blocks = 16;
};

// A prompt as the cache knows it. `tokens` must outlive it.
struct PrefixKey {
  PrefixKey() = default;
  PrefixKey(absl::string_view fingerprint, absl::string_view cache_salt, absl::Span<const int32_t> prompt)
      : salt(cache_salt), tokens(prompt), chain(PrefixChain(fingerprint, /*adapter=*/"", cache_salt, prompt)) {}

  std::string salt;
  absl::Span<const int32_t> tokens;
  std::vector<PrefixHash> chain;  // of the whole blocks of `tokens`
};

class PrefixCache {
 public:
  // `on_resume_point`: called for each that appears (true) and goes (false).
  using OnResumePoint = std::function<void(const PrefixHash& hash, bool present)>;
  PrefixCache(std::shared_ptr<const StateLayout> layout, const PrefixCacheOptions& options,
              OnResumePoint on_resume_point = nullptr);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;

  bool enabled() const { return options_.bytes > 0; }
  const std::shared_ptr<const StateLayout>& layout() const { return layout_; }
  // Tokens of the longest beginning, at most `limit` tokens, that a state can go on from; 0: none.
  int64_t Find(const PrefixKey& key, int64_t limit) const;
  // A state at position `cached`, which Find has just returned and which is not 0. Errors of
  // SequenceState::FromSnapshot.
  absl::StatusOr<SequenceState> Resume(const PrefixKey& key, int64_t cached, MemoryBudget& budget, int64_t max_tokens);
  // Positions in (begin, end] at which computing must pause for Add; ascending. `limit`: as for Find, where the same
  // prompt would like to go on.
  std::vector<int64_t> CutsFor(const PrefixKey& key, int64_t begin, int64_t limit, int64_t end) const;
  // Keeps what it can of a state that is on its way through the prompt: after every chunk, and with the state at each
  // of CutsFor's positions, which are `cuts`.
  void Add(const PrefixKey& key, absl::Span<const int64_t> cuts, SequenceState& state);
  // Gives up what was used longest ago. False when there is nothing left.
  bool EvictOne();

  // Of pages and snapshots. Pages that running states hold too are counted here as well.
  int64_t bytes() const { return bytes_; }
  int64_t blocks() const { return static_cast<int64_t>(nodes_.size()); }
  int64_t resume_points() const { return recurrent_ ? static_cast<int64_t>(evictable_.size()) : blocks(); }
  int64_t evictions() const { return evictions_; }

 private:
  struct Node {
    PrefixHash hash;
    Node* parent = nullptr;
    std::string salt;  // of first blocks
    std::vector<int32_t> tokens;
    int64_t children = 0;
    std::vector<PageRef> pages;      // by layer; none, or some missing (of windows)
    std::vector<PageRef> recurrent;  // by layer; none, or the snapshot after this block
    int64_t snapshots = 0;           // that need `pages`
    uint64_t last_use = 0;
  };

  // The blocks of `key` that are there, from the first on.
  std::vector<Node*> Match(const PrefixKey& key) const;
  bool CanResume(absl::Span<Node* const> path) const;
  // First block whose pages of this layer a state after `blocks` blocks needs.
  int64_t FirstBlock(size_t layer, int64_t blocks) const;
  Node* AddNode(const PrefixKey& key, int64_t block, Node* parent);
  std::vector<Node*> AddPath(const PrefixKey& key, int64_t blocks);
  void AddPages(const PrefixKey& key, int64_t blocks, SequenceState& state);
  void AddSnapshot(const PrefixKey& key, int64_t blocks, SequenceState& state);
  // Copies references into blocks that lack them.
  void FillPages(absl::Span<Node* const> path, const StateSnapshot& snapshot);
  // `share`, with a few evicted if that makes room for it.
  absl::StatusOr<StateSnapshot> ShareEvicting(absl::FunctionRef<absl::StatusOr<StateSnapshot>()> share);
  bool LacksPages(const PrefixKey& key, int64_t blocks, const SequenceState& state) const;
  void Touch(Node* node);
  bool IsEvictable(const Node& node) const;
  void DropSnapshot(Node* node);
  void DropPages(Node* node);
  // Removes blocks that hold nothing and lead to nothing, from `node` upwards.
  void Prune(Node* node);
  void Remove(Node* node);

  const std::shared_ptr<const StateLayout> layout_;
  const PrefixCacheOptions options_;
  const OnResumePoint on_resume_point_;
  bool recurrent_ = false;
  // Blocks must be cached at their own ends: chunks might carry windows past them.
  bool cuts_needed_ = false;
  absl::flat_hash_map<PrefixHash, std::unique_ptr<Node>> nodes_;
  // What may be evicted: leaves, or blocks with a snapshot.
  std::set<std::pair<uint64_t, Node*>> evictable_;
  uint64_t clock_ = 0;
  int64_t bytes_ = 0;
  int64_t evictions_ = 0;
};

}  // namespace baton
