// Feeds arbitrary bytes to a StateReader, as a hostile or broken prefill worker could.
//
// Input: one byte of choices, then the stream.
//   bits 0-1  the receiver's layout
//   bit 2     frame lengths and checksums are made right, so that the contents are reached
//   bit 3     the commit's number of sections and chain are made right too
//   bits 4-5  frames in one chunk, less one
//   bits 6-7  the bytes of a slice, as a network would deliver them: all of a chunk, 1, 7 or 64
//
// Held: no crash; the state moves only by a commit; an error is final; what was committed can be written and read again
// to the same bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/state/state_codec.h"
#include "tests/common/state/state_frames.h"
#include "tests/common/state/test_states.h"

namespace baton {
namespace {

constexpr int64_t kMaxTokens = 40;

std::shared_ptr<const StateLayout> Layout(int choice) {
  static const std::shared_ptr<const StateLayout> layouts[4] = {
      MixedLayout(ElementType::kBF16, /*page_tokens=*/4),
      MakeLayout({GlobalLayer(1, 2), WindowLayer(1, 2, 3), RecurrentLayer(2, 1)}),
      MakeLayout({WindowLayer(2, 2, 4), GlobalLayer(2, 2)}, ElementType::kF32),
      MakeLayout({RecurrentLayer(3, 3), WindowLayer(1, 2, 1)}),
  };
  return layouts[choice];
}

// Cuts the bytes into frames where their length fields say so, as far as they go; seals each.
std::vector<StateFrame> Reseal(absl::string_view bytes) {
  std::vector<StateFrame> frames;
  while (bytes.size() >= 16) {
    const size_t payload = std::min<size_t>(ReadAt<uint32_t>(bytes, 4), bytes.size() - 16);
    frames.push_back(SealFrame(static_cast<uint8_t>(bytes[0]), std::string(bytes.substr(8, payload))));
    bytes.remove_prefix(payload + 16);
  }
  return frames;
}

void WriteAndReadAgain(const SequenceState& state, const CommitRecord& commit, MemoryBudget& budget) {
  StateWriter writer(TestFingerprint(), state.layout(), commit.position, KvEncoding::kExact,
                     commit.first_tokens.size());
  std::string stream;
  writer.AppendHeader(&stream);
  writer.AppendPieces(state, &stream);
  writer.AppendCommit(commit.first_tokens, &stream);
  SequenceState again = MakeState(std::make_shared<StateLayout>(state.layout()), budget, kMaxTokens);
  StateReader reader(TestFingerprint(), &again);
  BATON_CHECK(reader.Feed(stream).ok());
  BATON_CHECK(reader.committed());
  BATON_CHECK(VisibleBytes(again) == VisibleBytes(state));
  BATON_CHECK(reader.commit().first_tokens.size() == commit.first_tokens.size());
  for (size_t i = 0; i < commit.first_tokens.size(); ++i) {
    BATON_CHECK(reader.commit().first_tokens[i].id == commit.first_tokens[i].id);
    BATON_CHECK(reader.commit().first_tokens[i].ends == commit.first_tokens[i].ends);
    BATON_CHECK(reader.commit().first_tokens[i].top_ids == commit.first_tokens[i].top_ids);
  }
}

void Run(uint8_t choices, absl::string_view bytes) {
  MemoryBudget budget(1 << 20);
  const std::shared_ptr<const StateLayout> layout = Layout(choices & 3);
  SequenceState state = MakeState(layout, budget, kMaxTokens);
  StateReader reader(TestFingerprint(), &state);

  constexpr size_t kSliceBytes[] = {size_t{1} << 30, 1, 7, 64};
  const size_t slice_bytes = kSliceBytes[choices >> 6];
  absl::Status status;
  const auto feed = [&](absl::string_view chunk) {
    std::vector<absl::string_view> slices;
    for (size_t at = 0; at < chunk.size(); at += slice_bytes) slices.push_back(chunk.substr(at, slice_bytes));
    const absl::Status now = reader.Feed(slices);
    BATON_CHECK(status.ok() || now == status);
    BATON_CHECK(reader.committed() == (state.position() > 0));
    status = now;
  };
  if ((choices & 4) == 0) {
    feed(bytes);
  } else {
    std::vector<StateFrame> frames = Reseal(bytes);
    const std::string stream = JoinFrames(std::move(frames), /*fix_commit=*/(choices & 8) != 0);
    const std::vector<StateFrame> joined = SplitFrames(stream);
    const size_t frames_in_chunk = 1 + ((choices >> 4) & 3);
    for (size_t begin = 0; begin < joined.size(); begin += frames_in_chunk) {
      std::string chunk;
      for (size_t i = begin; i < std::min(joined.size(), begin + frames_in_chunk); ++i) chunk += joined[i].bytes;
      feed(chunk);
    }
  }
  BATON_CHECK(reader.bytes_received() >= 0 && budget.used() == state.bytes());
  if (reader.committed()) WriteAndReadAgain(state, reader.commit(), budget);
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  baton::Run(data[0], absl::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
