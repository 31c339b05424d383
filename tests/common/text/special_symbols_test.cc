#include "common/text/special_symbols.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(IsControlLikeSymbol, KnowsSymbolsThatSteerTheModel) {
  for (const char* symbol : {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]", "<unused0>",
                             "<unused98>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
                             "<|fim_prefix|>", "<|file_separator|>", "[multimodal]", "<unheard_of>", "</tool>"}) {
    EXPECT_TRUE(IsControlLikeSymbol(symbol)) << symbol;
  }
}

TEST(IsControlLikeSymbol, KnowsOrdinaryText) {
  for (const char* symbol : {"<table>",
                             "</table>",
                             "<caption>",
                             "<thead>",
                             "<tbody>",
                             "<tfoot>",
                             "<tr>",
                             "<th>",
                             "<td>",
                             "<h1>",
                             "</h6>",
                             "<blockquote>",
                             "</blockquote>",
                             "<strong>",
                             "<em>",
                             "<b>",
                             "<i>",
                             "<u>",
                             "<s>",
                             "</s>",
                             "<sub>",
                             "<sup>",
                             "<code>",
                             "</code>",
                             "\n",
                             "\n\n\n",
                             "\t",
                             "\u2581\u2581",
                             "<",
                             "<>",
                             "[]",
                             "a",
                             "<b",
                             "b>",
                             ""}) {
    EXPECT_FALSE(IsControlLikeSymbol(symbol)) << symbol;
  }
}

}  // namespace
}  // namespace baton
