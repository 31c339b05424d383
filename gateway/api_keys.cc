#include "gateway/api_keys.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/ids.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxModels = 1000;
constexpr int64_t kMaxRate = int64_t{1} << 40;
// Lets scanners of source code recognise a key that was committed by mistake.
constexpr char kKeyPrefix[] = "baton_";
constexpr size_t kKeyRandomBytes = 32;

bool IsClientName(absl::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
  });
}

absl::Status ParseCount(absl::string_view value, int64_t* out) {
  if (!absl::SimpleAtoi(value, out) || *out < 1 || *out > kMaxRate) {
    return absl::InvalidArgumentError("expected a whole number of at least 1");
  }
  return absl::OkStatus();
}

absl::Status ParseModels(absl::string_view value, std::vector<std::string>* out) {
  *out = absl::StrSplit(value, ',', absl::SkipEmpty());
  std::sort(out->begin(), out->end());
  out->erase(std::unique(out->begin(), out->end()), out->end());
  if (out->empty() || out->size() > kMaxModels) return absl::InvalidArgumentError("expected models=NAME,NAME");
  return absl::OkStatus();
}

// A day means its beginning.
absl::Status ParseExpiry(absl::string_view value, absl::Time* out) {
  std::string error;
  if (absl::ParseTime("%Y-%m-%d", value, out, &error) || absl::ParseTime(absl::RFC3339_full, value, out, &error)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("expected a day or a time in UTC, such as 2027-01-31 or 2027-01-31T12:00:00Z");
}

absl::Status SetLimit(absl::string_view name, absl::string_view value, ApiKey* key) {
  ClientLimits& limits = key->limits;
  if (name == "concurrent") return ParseCount(value, &limits.concurrent);
  if (name == "requests_per_minute") return ParseCount(value, &limits.requests_per_minute);
  if (name == "tokens_per_minute") return ParseCount(value, &limits.tokens_per_minute);
  if (name == "models") return ParseModels(value, &limits.models);
  if (name == "expires") return ParseExpiry(value, &key->expires);
  if (name == "max_priority") {
    const bool valid = absl::SimpleAtoi(value, &limits.max_priority) && limits.max_priority >= -kMaxPriority &&
                       limits.max_priority <= kMaxPriority;
    return valid ? absl::OkStatus() : absl::InvalidArgumentError("expected -100 to 100");
  }
  if (name == "operator") {
    limits.is_operator = value == "yes";
    return value == "yes" || value == "no" ? absl::OkStatus() : absl::InvalidArgumentError("expected yes or no");
  }
  return absl::InvalidArgumentError(
      "there is no such limit: expected concurrent, requests_per_minute, tokens_per_minute, models, max_priority, "
      "operator or expires");
}

// A word for an error, unless it may be a key.
std::string Quote(absl::string_view word) {
  const absl::string_view name = word.substr(0, word.find('='));
  const bool harmless =
      std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_islower(c) || c == '_'; });
  return harmless ? absl::StrCat("\"", absl::CHexEscape(word), "\": ") : "after name and hash: ";
}

absl::StatusOr<ApiKey> ParseLine(const std::vector<absl::string_view>& words) {
  ApiKey key;
  // What does not look as it should may be the key itself, by mistake: it is not repeated.
  if (!IsClientName(words[0])) {
    return absl::InvalidArgumentError(
        "the name must be 1 to 64 letters, digits, dots, dashes and underscores; then come the SHA-256 of the key and "
        "the limits");
  }
  key.client = std::string(words[0]);
  const bool has_hash = words.size() >= 2 && words[1].size() == 2 * kSha256Bytes &&
                        std::all_of(words[1].begin(), words[1].end(), [](char c) { return absl::ascii_isxdigit(c); });
  if (!has_hash) {
    return absl::InvalidArgumentError(
        "after the name comes the SHA-256 of the key, 64 hex digits: `baton key new NAME` makes both");
  }
  key.sha256 = absl::HexStringToBytes(words[1]);
  std::set<absl::string_view> seen;
  for (size_t i = 2; i < words.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> limit = absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    absl::Status status = SetLimit(limit.first, limit.second, &key);
    if (status.ok() && !seen.insert(limit.first).second) status = absl::InvalidArgumentError("given twice");
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(Quote(words[i]), status.message()));
    }
  }
  return key;
}

}  // namespace

bool ClientLimits::AllowsModel(const std::string& model) const {
  return models.empty() || std::binary_search(models.begin(), models.end(), model);
}

absl::StatusOr<std::vector<ApiKey>> ParseApiKeys(absl::string_view text) {
  std::vector<ApiKey> keys;
  // By the first bytes of the hash, which is how they are found.
  std::map<std::string, size_t> hash_lines;
  struct First {
    size_t line;
    size_t key;
  };
  std::map<std::string, First> clients;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    const auto wrong = [number](auto&&... what) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", what...));
    };
    absl::StatusOr<ApiKey> key = ParseLine(words);
    if (!key.ok()) return wrong(key.status().message());
    const auto [hash, new_hash] = hash_lines.emplace(key->sha256.substr(0, sizeof(uint64_t)), number);
    if (!new_hash) return wrong("the same key as in line ", hash->second);
    const auto [client, new_client] = clients.emplace(key->client, First{number, keys.size()});
    if (!new_client && !(keys[client->second.key].limits == key->limits)) {
      return wrong("other limits than in line ", client->second.line,
                   ", which is a key of the same client (only `expires` may differ)");
    }
    keys.push_back(*std::move(key));
  }
  if (keys.empty()) return absl::InvalidArgumentError("there is no key in it; `baton key new NAME` makes one");
  return keys;
}

absl::StatusOr<NewApiKey> MakeApiKey(absl::string_view client, const std::vector<std::string>& limits) {
  if (!IsClientName(client)) {
    return absl::InvalidArgumentError("the name must be 1 to 64 letters, digits, dots, dashes and underscores");
  }
  // Names and limits are words: nothing in them may begin another, a comment or a line.
  for (const std::string& limit : limits) {
    if (limit.find_first_of(" \t\r\n#") != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", absl::CHexEscape(limit), "\": a limit is one word, NAME=VALUE"));
    }
  }
  NewApiKey made;
  std::string encoded = absl::WebSafeBase64Escape(RandomBytes(kKeyRandomBytes));
  encoded.erase(encoded.find_last_not_of('=') + 1);
  made.key = absl::StrCat(kKeyPrefix, encoded);
  made.line = absl::StrCat(client, " ", absl::BytesToHexString(Sha256(made.key)));
  if (!limits.empty()) absl::StrAppend(&made.line, " ", absl::StrJoin(limits, " "));
  const absl::StatusOr<std::vector<ApiKey>> parsed = ParseApiKeys(made.line);
  if (!parsed.ok()) {
    // There is but one line.
    absl::string_view message = parsed.status().message();
    const size_t colon = message.find(": ");
    return absl::InvalidArgumentError(colon == absl::string_view::npos ? message : message.substr(colon + 2));
  }
  return made;
}

}  // namespace baton
