// How a worker introduces itself in a directory such as etcd: a small JSON object under a key of its own. What else
// there is to know (capacity, tokenizer, load) gateways ask the worker itself.
//
//   /baton/workers/decode/3f2a...  ->
//   {"role":"decode","endpoint":"10.0.0.7:7201","model":"gemma-2-2b-it","boot":"3f2a..."}
//
// Readers ignore members they do not know.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

struct WorkerRecord {
  // "prefill" or "decode".
  std::string role;
  // host:port where gateways, and prefill workers, reach it.
  std::string endpoint;
  std::string model;
  // New at every start of the process.
  std::string boot_id;
};

// One line of JSON.
std::string SerializeWorkerRecord(const WorkerRecord& record);

// INVALID_ARGUMENT, with the reason, for anything that is not a record: `text` comes from outside.
absl::StatusOr<WorkerRecord> ParseWorkerRecord(absl::string_view text);

// Below `prefix`, which ends with a slash.
std::string WorkerRecordKey(absl::string_view prefix, const WorkerRecord& record);

}  // namespace baton
