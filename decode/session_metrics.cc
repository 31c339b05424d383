#include "decode/session_metrics.h"

namespace baton {
namespace {

prometheus::Gauge& Sessions(Metrics* metrics, const std::string& model, const std::string& place) {
  return metrics->AddGauge("baton_sessions", "Kept sessions.", {{"model", model}, {"place", place}});
}

prometheus::Gauge& Bytes(Metrics* metrics, const std::string& model, const std::string& place) {
  return metrics->AddGauge("baton_session_bytes", "Bytes of kept sessions.", {{"model", model}, {"place", place}});
}

prometheus::Counter& Events(Metrics* metrics, const std::string& model, const std::string& event) {
  return metrics->AddCounter("baton_session_events_total", "What happened to sessions.",
                             {{"model", model}, {"event", event}});
}

}  // namespace

SessionMetrics::SessionMetrics(Metrics* metrics, const std::string& model)
    : memory_sessions(Sessions(metrics, model, "memory")),
      directory_sessions(Sessions(metrics, model, "directory")),
      memory_bytes(Bytes(metrics, model, "memory")),
      directory_bytes(Bytes(metrics, model, "directory")),
      kept(Events(metrics, model, "kept")),
      not_kept(Events(metrics, model, "not_kept")),
      opened(Events(metrics, model, "opened")),
      not_found(Events(metrics, model, "not_found")),
      read_from_memory(Events(metrics, model, "read_memory")),
      read_from_directory(Events(metrics, model, "read_directory")),
      expired(Events(metrics, model, "expired")),
      evicted(Events(metrics, model, "evicted")),
      written(Events(metrics, model, "written")),
      write_failed(Events(metrics, model, "write_failed")) {}

}  // namespace baton
