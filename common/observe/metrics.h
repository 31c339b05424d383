// Prometheus metrics of one process: a registry whose every series carries `role`, the handles that the hot path keeps,
// and the HTTP endpoint. Names, meanings and buckets: docs/metrics.md.
//
//   Metrics metrics("decode");
//   prometheus::Counter& tokens =                                  // resolve once, keep the reference
//       metrics.AddCounter("baton_generation_tokens_total", "Tokens sampled.", {{"model", m}});
//   tokens.Increment(3);
//   MetricsServer server(&metrics);
//   server.Start("127.0.0.1:0");
//
// One label set for one name: adding a name twice with other label names is a CHECK failure.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/file_descriptor.h"
#include "common/base/listening_sockets.h"

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

// Serves GET /metrics over HTTP/1.1, one connection after another on a thread of its own: scrapers are few and come
// seldom. A peer that stalls is dropped after a few seconds.
//
// prometheus-cpp's own exposer is of no use here: its threads have stacks of 100 KiB, most of which the thread-local
// storage of OpenBLAS takes in every process that links it, so the first scrape overflows them.
class MetricsServer {
 public:
  // `metrics` must outlive it.
  explicit MetricsServer(const Metrics* metrics);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  // `address`: host:port, port 0 picks a free one. UNAVAILABLE when it cannot be bound, with what to do.
  absl::Status Start(const std::string& address);
  int port() const { return listening_.port; }

 private:
  void Loop();
  void Answer(int connection) const;

  const Metrics* const metrics_;
  ListeningSockets listening_;
  // Written to when the thread has to end.
  FileDescriptor stop_event_;
  std::thread thread_;
};

}  // namespace baton
