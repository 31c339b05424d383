// What name servers and directories say: the first byte chooses the parser.
#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "common/rpc/worker_record.h"
#include "gateway/srv_records.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  if (data[0] % 2 == 0) {
    (void)baton::ParseSrvAnswer(absl::MakeSpan(data + 1, size - 1));
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  const absl::StatusOr<baton::WorkerRecord> record = baton::ParseWorkerRecord(text);
  // What is accepted can be written, and read again.
  if (record.ok() && !baton::ParseWorkerRecord(baton::SerializeWorkerRecord(*record)).ok()) __builtin_trap();
  return 0;
}
