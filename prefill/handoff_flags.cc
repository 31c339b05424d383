#include "prefill/handoff_flags.h"

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"

namespace baton {
namespace {

// A page of the largest model's K and V fits; beyond the upper bound nothing gets faster.
constexpr int64_t kMinCredit = int64_t{1} << 20;
constexpr int64_t kMaxCredit = int64_t{4} << 30;

void SetTransport(const std::string& text, HandoffOptions* options) {
  if (text == "auto") {
    options->transport = HandoffTransport::kAuto;
  } else if (text == "grpc") {
    options->transport = HandoffTransport::kGrpc;
  } else if (text == "shm") {
    options->transport = HandoffTransport::kShm;
  } else {
    throw CLI::ValidationError("--handoff-transport", "expected auto, grpc or shm, got \"" + text + "\"");
  }
}

void SetEncoding(const std::string& text, HandoffOptions* options) {
  if (text == "bf16") {
    options->encoding = KvEncoding::kExact;
  } else if (text == "int8") {
    options->encoding = KvEncoding::kInt8;
  } else {
    throw CLI::ValidationError("--handoff-dtype", "expected bf16 or int8, got \"" + text + "\"");
  }
}

void SetCredit(const std::string& text, HandoffOptions* options) {
  const absl::StatusOr<int64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) throw CLI::ValidationError("--handoff-credit", std::string(bytes.status().message()));
  if (*bytes < kMinCredit || *bytes > kMaxCredit) {
    throw CLI::ValidationError("--handoff-credit", absl::StrCat("must be ", FormatBytes(kMinCredit), " to ",
                                                                FormatBytes(kMaxCredit), ", not ", text));
  }
  options->credit_bytes = *bytes;
}

}  // namespace

void AddHandoffFlags(CLI::App& app, HandoffOptions* options) {
  app.add_option_function<std::string>(
         "--handoff-transport", [options](const std::string& text) { SetTransport(text, options); },
         "How state reaches decode workers: grpc; shm: through shared memory where they are on this host and run as "
         "this user, else gRPC; auto: shared memory for states of 1 MiB and more")
      ->type_name("auto|grpc|shm")
      ->default_str("auto");
  app.add_option_function<std::string>(
         "--handoff-dtype", [options](const std::string& text) { SetEncoding(text, options); },
         "K and V on their way to decode workers: bf16: as computed; int8: half the bytes, less exact: the output is "
         "no longer that of one process")
      ->type_name("bf16|int8")
      ->default_str("bf16");
  app.add_option_function<std::string>(
         "--handoff-credit", [options](const std::string& text) { SetCredit(text, options); },
         "State that may be on its way to one decode worker, of all requests together; also the size of the memory "
         "shared with it")
      ->type_name("SIZE")
      ->default_str("32MiB");
}

}  // namespace baton
