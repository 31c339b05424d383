#include "common/observe/metrics.h"

#include "common/base/status_macros.h"
#include "common/base/version.h"

namespace baton {
namespace {

std::vector<double> Doubling(double first, int count, double factor = 2) {
  std::vector<double> bounds;
  for (int i = 0; i < count; ++i, first *= factor) bounds.push_back(first);
  return bounds;
}

}  // namespace

const std::vector<double>& TtftBuckets() {
  static const auto* buckets = new std::vector<double>{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,
                                                       .75,  1,    2.5, 5,   7.5, 10,  20,  40, 80,  160};
  return *buckets;
}
const std::vector<double>& InterTokenBuckets() {
  static const auto* buckets =
      new std::vector<double>{.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5};
  return *buckets;
}
const std::vector<double>& RequestSecondsBuckets() {
  static const auto* buckets = new std::vector<double>(Doubling(.01, 15));
  return *buckets;
}
const std::vector<double>& StepSecondsBuckets() {
  static const auto* buckets = new std::vector<double>(Doubling(.0005, 15));
  return *buckets;
}
const std::vector<double>& BytesBuckets() {
  static const auto* buckets = new std::vector<double>(Doubling(4096, 11, 4));
  return *buckets;
}
const std::vector<double>& CountBuckets() {
  static const auto* buckets = new std::vector<double>(Doubling(1, 11));
  return *buckets;
}
const std::vector<double>& TokensBuckets() {
  static const auto* buckets =
      new std::vector<double>{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
  return *buckets;
}

Metrics::Metrics(absl::string_view role) : role_(role), registry_(std::make_shared<prometheus::Registry>()) {
  AddGauge("baton_build_info", "Always 1; the version is a label.", {{"version", kVersion}}).Set(1);
}

void Metrics::CheckLabels(const std::string& name, const MetricLabels& labels) {
  std::vector<std::string> names;
  for (const auto& [key, value] : labels) names.push_back(key);
  auto [it, inserted] = label_names_.try_emplace(name, names);
  BATON_CHECK(inserted || it->second == names);
}

prometheus::Counter& Metrics::AddCounter(const std::string& name, const std::string& help, const MetricLabels& labels) {
  absl::MutexLock lock(&mutex_);
  CheckLabels(name, labels);
  void*& family = families_[name];
  if (family == nullptr) {
    family = &prometheus::BuildCounter().Name(name).Help(help).Labels({{"role", role_}}).Register(*registry_);
  }
  return static_cast<prometheus::Family<prometheus::Counter>*>(family)->Add(labels);
}

prometheus::Gauge& Metrics::AddGauge(const std::string& name, const std::string& help, const MetricLabels& labels) {
  absl::MutexLock lock(&mutex_);
  CheckLabels(name, labels);
  void*& family = families_[name];
  if (family == nullptr) {
    family = &prometheus::BuildGauge().Name(name).Help(help).Labels({{"role", role_}}).Register(*registry_);
  }
  return static_cast<prometheus::Family<prometheus::Gauge>*>(family)->Add(labels);
}

prometheus::Histogram& Metrics::AddHistogram(const std::string& name, const std::string& help,
                                             const std::vector<double>& bounds, const MetricLabels& labels) {
  absl::MutexLock lock(&mutex_);
  CheckLabels(name, labels);
  void*& family = families_[name];
  if (family == nullptr) {
    family = &prometheus::BuildHistogram().Name(name).Help(help).Labels({{"role", role_}}).Register(*registry_);
  }
  return static_cast<prometheus::Family<prometheus::Histogram>*>(family)->Add(labels, bounds);
}

}  // namespace baton
