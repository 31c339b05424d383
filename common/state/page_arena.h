// The memory behind one budget's pages. Pages of one size come from large mapped slabs and return to a free list, last
// in, first out, so that what is used again is still in cache and has been touched: a page's first touch costs more
// than filling it. All pages of a size are alike, so nothing fragments.
//
// Idle pages keep their memory until pages of another size need it: the memory of used and idle pages together never
// exceeds the budget (but for what rounding to the system's pages adds).
//
// Thread-safe. Pages may outlive the budget (a transfer may still hold some): the arena goes with the last of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "common/base/pages.h"
#include "common/state/kv_page.h"

namespace baton {

class MemoryBudget;

class PageArena {
 public:
  // `limit_bytes`: of used and idle pages together.
  PageArena(MemoryBudget* budget, int64_t limit_bytes) : limit_bytes_(limit_bytes), budget_(budget) {}
  PageArena(const PageArena&) = delete;
  // The budget is going. Deletes the arena now or with its last page.
  void Abandon();

  // Of at least one byte. Empty when the system refuses memory.
  PageRef Allocate(int64_t bytes);
  // Of a page whose last reference is gone. `free_charge`: its bytes go back to the budget.
  void Recycle(Page* page, bool free_charge);
  int64_t idle_bytes() const;

 private:
  struct SizeClass {
    int64_t bytes = 0;   // of a page
    int64_t stride = 0;  // from one page to the next
    std::deque<Page> pages;
    std::vector<Page*> idle;  // their memory was touched
    std::vector<Page*> cold;  // given back to the system
    std::vector<PageBlock> slabs;
    std::byte* fresh = nullptr;  // never touched: [fresh, fresh_end)
    std::byte* fresh_end = nullptr;
  };

  ~PageArena();
  // nullptr when the system refuses.
  Page* AddPage(SizeClass& size_class);
  bool AddSlab(SizeClass& size_class);
  // Gives idle memory of other sizes back to the system until `bytes` more fit.
  void MakeRoom(int64_t bytes);

  const int64_t limit_bytes_;
  mutable std::mutex mutex_;
  MemoryBudget* budget_;
  std::map<int64_t, SizeClass> classes_;  // by bytes of a page
  int64_t used_pages_ = 0;
  int64_t used_bytes_ = 0;
  int64_t idle_bytes_ = 0;
};

}  // namespace baton
