// docs/state-format.md shows a small stream byte by byte; the writer must write exactly that, and the reader read it.
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/escaping.h"
#include "common/state/state_codec.h"
#include "tests/common/state/test_states.h"

namespace baton {
namespace {

// The hex digits of the lines "offset  hex bytes  remark" in the block that begins with ```stream.
std::string DocumentedStream() {
  std::ifstream file(std::string(BATON_TEST_DATA) + "/../../docs/state-format.md");
  std::string line;
  std::string hex;
  bool inside = false;
  while (std::getline(file, line)) {
    if (line.rfind("```", 0) == 0) {
      inside = line == "```stream";
      continue;
    }
    if (!inside) continue;
    std::istringstream words(line);
    std::string word;
    words >> word;  // the offset
    EXPECT_EQ(std::stoul(word, nullptr, 16), hex.size() / 2) << line;
    while (words >> word && word != "|") hex += word;
  }
  return absl::HexStringToBytes(hex);
}

std::shared_ptr<StateLayout> DocumentedLayout() {
  return MakeLayout({GlobalLayer(1, 2), WindowLayer(1, 2, 3), RecurrentLayer(2, 1)});
}

SequenceState DocumentedState(MemoryBudget& budget) {
  SequenceState state = MakeState(DocumentedLayout(), budget, 8);
  for (int position = 0; position < 3; ++position) {
    for (int layer : {0, 1}) {
      const float k[2] = {static_cast<float>(position), static_cast<float>(layer)};
      const float v[2] = {-1, 0.5f};
      state.WriteKv(layer, position, k, v);
    }
    state.Advance(1);
  }
  state.RgLruState(2)[0] = 1;
  state.RgLruState(2)[1] = -2;
  state.ConvState(2)[1] = std::byte{0x40};  // bfloat16 2.0, little-endian
  state.ConvState(2)[3] = std::byte{0xC0};  // -2.0
  return state;
}

TEST(StateFormatTest, TheWriterWritesTheDocumentedStream) {
  MemoryBudget budget(1 << 20);
  const SequenceState state = DocumentedState(budget);
  StateWriter writer(TestFingerprint(), state.layout(), 3);
  std::string stream;
  writer.AppendHeader(&stream);
  writer.AppendPieces(state, &stream);
  FirstTokenRecord token;
  token.id = 107;
  token.has_logprobs = true;
  token.is_greedy = true;
  token.logprob = -0.5f;
  token.top_ids = {107};
  token.top_logprobs = {-0.5f};
  writer.AppendCommit(token, &stream);
  EXPECT_EQ(absl::BytesToHexString(stream), absl::BytesToHexString(DocumentedStream()));
}

TEST(StateFormatTest, TheReaderReadsTheDocumentedStream) {
  MemoryBudget budget(1 << 20);
  SequenceState receiver = MakeState(DocumentedLayout(), budget, 8);
  StateReader reader(TestFingerprint(), &receiver);
  const absl::Status status = reader.Feed(DocumentedStream());
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_TRUE(reader.committed());
  EXPECT_EQ(reader.commit().first_tokens[0].id, 107);
  EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(DocumentedState(budget)));
}

}  // namespace
}  // namespace baton
