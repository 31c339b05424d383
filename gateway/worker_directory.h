// A directory that knows which workers there are, besides those that flags name. Its answers are hints: a worker is
// used when it answers itself.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/rpc/worker_record.h"

namespace baton {

class WorkerDirectory {
 public:
  virtual ~WorkerDirectory() = default;
  // What messages call it.
  virtual std::string name() const = 0;
  // `changed` is called, from any thread, when Workers() has something new to say; never after Stop().
  virtual void Start(std::function<void()> changed) = 0;
  virtual void Stop() = 0;
  // What was known last; it stays so while the directory is out of reach. An error when nothing was ever known.
  virtual absl::StatusOr<std::vector<WorkerRecord>> Workers() const = 0;
};

}  // namespace baton
