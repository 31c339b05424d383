// Bytes that lie in several places, in order: how the network delivers a message, and how a page of K and V is sent
// without copying it. Two views of the same idea:
//
//   SliceCursor  reads: walks over slices that others own. It never looks beyond them; callers ask remaining() first.
//   ByteChain    is written: small parts are copied, large ones referenced and kept alive by their owner.
//
//   SliceCursor cursor(slices);
//   if (cursor.remaining() < 8) ...
//   const uint32_t length = cursor.Read<uint32_t>();
//   cursor.CopyTo(row, row_bytes);
//
// The slices may lie in memory that another process writes (shared memory). Whatever a decision is based on must be
// read once, into the reader's own memory: Read and CopyTo do that, and nothing here reads twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/status_macros.h"

namespace baton {

class SliceCursor {
 public:
  // `slices` and what they show must outlive it.
  explicit SliceCursor(absl::Span<const absl::string_view> slices) : slices_(slices) {
    for (absl::string_view slice : slices) remaining_ += slice.size();
  }

  size_t remaining() const { return remaining_; }

  // The next `bytes` (at most remaining()), as the pieces they lie in; moves behind them.
  void Take(size_t bytes, absl::FunctionRef<void(absl::string_view)> fn) {
    BATON_CHECK(bytes <= remaining_);
    remaining_ -= bytes;
    while (bytes > 0) {
      const absl::string_view rest = slices_.front().substr(offset_);
      if (rest.size() > bytes) {
        fn(rest.substr(0, bytes));
        offset_ += bytes;
        return;
      }
      if (!rest.empty()) fn(rest);
      bytes -= rest.size();
      slices_.remove_prefix(1);
      offset_ = 0;
    }
  }
  void Skip(size_t bytes) {
    Take(bytes, [](absl::string_view) {});
  }
  void CopyTo(void* to, size_t bytes) {
    auto* at = static_cast<char*>(to);
    Take(bytes, [&](absl::string_view piece) {
      std::memcpy(at, piece.data(), piece.size());
      at += piece.size();
    });
  }
  template <typename T>
  T Read() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    CopyTo(&value, sizeof(value));
    return value;
  }
  // Behind this many more bytes (at most remaining()).
  SliceCursor After(size_t bytes) const {
    SliceCursor after = *this;
    after.Skip(bytes);
    return after;
  }
  // Of the next `bytes` (at most remaining()) only.
  SliceCursor First(size_t bytes) const {
    BATON_CHECK(bytes <= remaining_);
    SliceCursor first = *this;
    first.remaining_ = bytes;
    return first;
  }

 private:
  absl::Span<const absl::string_view> slices_;
  // Into slices_.front().
  size_t offset_ = 0;
  size_t remaining_ = 0;
};

class ByteChain {
 public:
  struct Part {
    absl::string_view bytes() const { return owner == nullptr ? absl::string_view(copy) : reference; }
    std::string copy;
    absl::string_view reference;
    // Keeps what `reference` shows alive and unchanged; null: the part is `copy`.
    std::shared_ptr<const void> owner;
  };

  void Add(std::string bytes) {
    size_ += bytes.size();
    parts_.push_back({std::move(bytes), {}, nullptr});
  }
  void AddReference(absl::string_view bytes, std::shared_ptr<const void> owner) {
    BATON_CHECK(owner != nullptr);
    size_ += bytes.size();
    parts_.push_back({{}, bytes, std::move(owner)});
  }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::vector<Part>& parts() { return parts_; }
  const std::vector<Part>& parts() const { return parts_; }
  void AppendTo(std::string* out) const {
    for (const Part& part : parts_) out->append(part.bytes().data(), part.bytes().size());
  }

 private:
  std::vector<Part> parts_;
  size_t size_ = 0;
};

}  // namespace baton
