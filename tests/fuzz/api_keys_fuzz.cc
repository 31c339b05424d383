// Feeds arbitrary text to the parser of key files, and the same text, as metadata, to the check of keys.
//
// Held: no crash; what is accepted keeps the promises of api_keys.h; nobody gets in without a key of the file.
#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "gateway/api_keys.h"
#include "gateway/authenticator.h"

namespace baton {
namespace {

constexpr char kGoodLine[] = "good ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";  // "abc"

void CheckKeys(const std::string& text) {
  const absl::StatusOr<std::vector<ApiKey>> keys = ParseApiKeys(text);
  if (!keys.ok()) {
    BATON_CHECK(!keys.status().message().empty());
    return;
  }
  BATON_CHECK(!keys->empty());
  for (const ApiKey& key : *keys) {
    BATON_CHECK(!key.client.empty() && key.client.size() <= 64 && key.sha256.size() == kSha256Bytes);
    BATON_CHECK(key.limits.concurrent >= 0 && key.limits.requests_per_minute >= 0 && key.limits.tokens_per_minute >= 0);
    BATON_CHECK(key.limits.max_priority >= -100 && key.limits.max_priority <= 100);
  }
}

void Run(const std::string& text) {
  CheckKeys(text);
  CheckKeys(std::string(kGoodLine) + " " + text);

  static auto* const metrics = new Metrics("gateway");
  static auto* const authenticator = [] {
    LogOptions quiet;
    quiet.minimum = Severity::kError;
    ConfigureLog(quiet);
    auto* made = new Authenticator(metrics);
    BATON_CHECK(made->SetKeys(kGoodLine).ok());
    return made;
  }();
  for (const char* const header : {"authorization", "x-api-key"}) {
    CallMetadata metadata;
    metadata.emplace(header, text);
    const bool let_in = authenticator->Authenticate(metadata).ok();
    BATON_CHECK(!let_in || text.find("abc") != std::string::npos);
  }
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  baton::Run(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
