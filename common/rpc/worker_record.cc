#include "common/rpc/worker_record.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

constexpr size_t kMaxRecordBytes = 4096;
constexpr size_t kMaxNameBytes = 128;

absl::StatusOr<std::string> Name(const nlohmann::json& object, const char* member) {
  const auto found = object.find(member);
  if (found == object.end() || !found->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("a worker's record needs a string \"", member, "\""));
  }
  const std::string& text = found->get_ref<const std::string&>();
  const bool printable = std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
  if (text.empty() || text.size() > kMaxNameBytes || !printable) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", member, "\" of a worker's record must have 1 to ", kMaxNameBytes, " printable characters"));
  }
  return text;
}

}  // namespace

std::string SerializeWorkerRecord(const WorkerRecord& record) {
  const nlohmann::ordered_json object = {
      {"role", record.role}, {"endpoint", record.endpoint}, {"model", record.model}, {"boot", record.boot_id}};
  return object.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::ordered_json::error_handler_t::replace);
}

absl::StatusOr<WorkerRecord> ParseWorkerRecord(absl::string_view text) {
  if (text.size() > kMaxRecordBytes) return absl::InvalidArgumentError("a worker's record is too long");
  const nlohmann::json object =
      nlohmann::json::parse(text.begin(), text.end(), /*callback=*/nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("a worker's record must be a JSON object");
  WorkerRecord record;
  BATON_ASSIGN_OR_RETURN(record.role, Name(object, "role"));
  BATON_ASSIGN_OR_RETURN(record.endpoint, Name(object, "endpoint"));
  BATON_ASSIGN_OR_RETURN(record.model, Name(object, "model"));
  BATON_ASSIGN_OR_RETURN(record.boot_id, Name(object, "boot"));
  if (record.role != "prefill" && record.role != "decode") {
    return absl::InvalidArgumentError(absl::StrCat("a worker's role is prefill or decode, not ", record.role));
  }
  const std::string problem = HostPortProblem(record.endpoint);
  if (!problem.empty()) return absl::InvalidArgumentError(absl::StrCat("a worker's endpoint: ", problem));
  return record;
}

std::string WorkerRecordKey(absl::string_view prefix, const WorkerRecord& record) {
  return absl::StrCat(prefix, record.role, "/", record.boot_id);
}

}  // namespace baton
