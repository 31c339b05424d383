#include "gateway/demand.h"

#include <algorithm>

#include "gateway/saturating.h"

namespace baton {

int64_t StateBytesFor(const worker::v1::StateBytes& bytes, int64_t tokens) {
  int64_t total = bytes.fixed();
  for (const auto& growth : bytes.growth()) {
    const int64_t kept = growth.limit() > 0 ? std::min(tokens, growth.limit()) : tokens;
    total = SaturatingAdd(total, SaturatingMultiply(growth.per_token(), kept));
  }
  return total;
}

Demand ReservedFirst(const worker::v1::StateBytes& bytes, const Demand& demand) {
  Demand first = demand;
  if (bytes.reserve_output() > 0) {
    first.state_tokens = std::min(demand.state_tokens, SaturatingAdd(demand.prompt_tokens, bytes.reserve_output()));
  }
  return first;
}

int64_t StateBytesFor(const worker::v1::StateBytes& bytes, const Demand& demand) {
  const int64_t one = StateBytesFor(bytes, demand.state_tokens);
  if (demand.samples == 1) return one;
  // Each further sample owns what lies behind the prompt's whole pages. What the samples share of a window's pages, and
  // the page that the prompt ends in, are there once more.
  const int64_t page = std::max<int64_t>(1, bytes.page_tokens());
  const int64_t own_tokens = SaturatingMultiply(demand.state_tokens / page + 1 - demand.prompt_tokens / page, page);
  int64_t own = bytes.fixed();
  int64_t shared = 0;
  for (const auto& growth : bytes.growth()) {
    const int64_t kept = growth.limit() > 0 ? std::min(own_tokens, growth.limit()) : own_tokens;
    own = SaturatingAdd(own, SaturatingMultiply(growth.per_token(), kept));
    shared = SaturatingAdd(shared, SaturatingMultiply(growth.per_token(), growth.limit() > 0 ? kept : page));
  }
  return SaturatingAdd(SaturatingAdd(one, shared), SaturatingMultiply(demand.samples - 1, own));
}

}  // namespace baton
