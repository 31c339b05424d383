// Prometheus metrics of one process: a registry whose every series carries `role`, the handles that the hot path keeps,
// and the HTTP endpoint. Names, meanings and buckets: docs/metrics.md.
//
//   Metrics metrics("decode");
//   prometheus::Counter& tokens = metrics.AddCounter("baton_generation_tokens_total", "Tokens sampled.", {{"model",
//   m}}); tokens.Increment(3);                        // resolve once, keep the reference MetricsServer
//   server(&metrics);  server.Start("127.0.0.1:0");
//
// One label set for one name: adding a name twice with other label names is a CHECK failure.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace prometheus {
class Exposer;
}

namespace baton {

// Histogram bounds.
const std::vector<double>& TtftBuckets();            // .001 ... 160 s
const std::vector<double>& InterTokenBuckets();      // .001 ... 5 s
const std::vector<double>& RequestSecondsBuckets();  // .01 doubling to 163.84 s
const std::vector<double>& StepSecondsBuckets();     // .0005 doubling to 8.192 s: engine steps, handoffs, queue
const std::vector<double>& BytesBuckets();           // 4 KiB, times 4, to 4 GiB
const std::vector<double>& CountBuckets();           // 1, 2, 4 ... 1024: batch sizes
const std::vector<double>& TokensBuckets();          // 1, 2, 5, 10 ... 100000: lengths

using MetricLabels = std::map<std::string, std::string>;

class Metrics {
 public:
  explicit Metrics(absl::string_view role);
  Metrics(const Metrics&) = delete;

  prometheus::Counter& AddCounter(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  prometheus::Gauge& AddGauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  prometheus::Histogram& AddHistogram(const std::string& name, const std::string& help,
                                      const std::vector<double>& bounds, const MetricLabels& labels = {});
  std::shared_ptr<prometheus::Registry> registry() const { return registry_; }

 private:
  void CheckLabels(const std::string& name, const MetricLabels& labels);
  const std::string role_;
  std::shared_ptr<prometheus::Registry> registry_;
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::vector<std::string>> label_names_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, void*> families_ ABSL_GUARDED_BY(mutex_);
};

// Serves GET /metrics.
class MetricsServer {
 public:
  explicit MetricsServer(const Metrics* metrics);
  ~MetricsServer();
  // `address`: host:port, port 0 picks a free one. UNAVAILABLE when it cannot be bound, naming the address.
  absl::Status Start(const std::string& address);
  int port() const { return port_; }

 private:
  const Metrics* metrics_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

}  // namespace baton
