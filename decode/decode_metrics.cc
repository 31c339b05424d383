#include "decode/decode_metrics.h"

namespace baton {

DecodeMetrics::DecodeMetrics(Metrics* metrics, const std::string& model, const MemoryBudget* budget)
    : WorkerMetrics(metrics, model, budget),
      prompt_tokens_transferred(PromptTokens(metrics, model, "transferred")),
      local_prefills(metrics->AddCounter("baton_local_prefills_total",
                                         "Prompts that this decode worker computed in its own batch.",
                                         {{"model", model}})),
      state_spills(metrics->AddCounter("baton_state_spills_total", "Sequences sent to disk because memory was short.",
                                       {{"model", model}})),
      state_spill_failures(metrics->AddCounter("baton_state_spill_failures_total",
                                               "Sequences that could not be sent to disk or read back, and ended.",
                                               {{"model", model}})),
      sequences_spilled(
          metrics->AddGauge("baton_sequences_spilled", "Sequences that wait on disk for memory.", {{"model", model}})),
      spilled_bytes(
          metrics->AddGauge("baton_state_spilled_bytes", "Bytes of sequences that wait on disk.", {{"model", model}})),
      finished_left(Finished(metrics, model, "left")) {}

}  // namespace baton
