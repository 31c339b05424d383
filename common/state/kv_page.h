// A page of a sequence state: K then V of `page_tokens` positions of one layer, each [kv_heads, page_tokens, head_dim],
// or one layer's recurrent state. Shared by reference between states, the prefix cache and handoffs.
//
// A page is charged to its budget once, from its allocation to its last release, however many hold it. Its bytes are
// 64-byte aligned and whatever was there before. What was written when a reference was taken never changes while that
// reference lives: a state may go on writing rows behind it, but none that somebody else may read.
//
//   PageRef page = state.KvPage(layer, position / layout.page_tokens);
//   Send(page.data(), page.bytes(), [page] {});       // lives until the callback is gone, on whatever thread
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace baton {

class PageArena;

// Where every page begins: a cache line, the widest vector.
inline constexpr int64_t kPageAlignment = 64;

// A page's memory and how many hold it. The arena's; others hold a PageRef.
struct Page {
  std::atomic<int32_t> references{0};
  std::byte* data = nullptr;
  int64_t bytes = 0;
  PageArena* arena = nullptr;
};

// One reference. Copies may live and die on different threads; a single PageRef is as thread-safe as a pointer.
class PageRef {
 public:
  PageRef() = default;
  PageRef(const PageRef& other) noexcept : page_(other.page_) {
    if (page_ != nullptr) page_->references.fetch_add(1, std::memory_order_relaxed);
  }
  PageRef(PageRef&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
  PageRef& operator=(PageRef other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~PageRef() {
    if (page_ != nullptr) Release();
  }

  explicit operator bool() const { return page_ != nullptr; }
  std::byte* data() const { return page_->data; }
  int64_t bytes() const { return page_->bytes; }
  // Somebody else holds it too. False is final as long as this reference is not copied.
  bool shared() const { return page_->references.load(std::memory_order_acquire) > 1; }

 private:
  friend class PageArena;
  friend class MemoryReservation;
  // Takes over one reference.
  explicit PageRef(Page* page) : page_(page) {}
  void Release();

  Page* page_ = nullptr;
};

}  // namespace baton
