#include "decode/checkpoint_metrics.h"

namespace baton {
namespace {

prometheus::Counter& Sent(Metrics* metrics, const std::string& model, const std::string& result) {
  return metrics->AddCounter("baton_checkpoints_sent_total", "Copies of running states sent to standbys.",
                             {{"model", model}, {"result", result}});
}

prometheus::Counter& Events(Metrics* metrics, const std::string& model, const std::string& event) {
  return metrics->AddCounter("baton_checkpoint_events_total", "What happened to copies kept for other workers.",
                             {{"model", model}, {"event", event}});
}

}  // namespace

CheckpointMetrics::CheckpointMetrics(Metrics* metrics, const std::string& model)
    : committed(Sent(metrics, model, "committed")),
      failed(Sent(metrics, model, "failed")),
      skipped(Sent(metrics, model, "skipped")),
      sent_bytes(metrics->AddCounter("baton_checkpoint_sent_bytes_total", "Bytes of states sent to standbys.",
                                     {{"model", model}})),
      held(metrics->AddGauge("baton_checkpoints", "Copies of other workers' states kept here.", {{"model", model}})),
      held_bytes(
          metrics->AddGauge("baton_checkpoint_bytes", "Bytes of copies of other workers' states.", {{"model", model}})),
      received(Events(metrics, model, "received")),
      refused(Events(metrics, model, "refused")),
      resumed(Events(metrics, model, "resumed")),
      dropped(Events(metrics, model, "dropped")),
      expired(Events(metrics, model, "expired")),
      evicted(Events(metrics, model, "evicted")) {}

}  // namespace baton
