// Strict reading of JSON objects that come in files: duplicate keys, deep nesting and anything that is not JSON are
// errors that say where; fields are read with their type and range checked. Never throws.
//
//   BATON_ASSIGN_OR_RETURN(nlohmann::json json, ParseJsonObject(text, "m/config.json"));
//   JsonFields fields(json, "m/config.json");
//   BATON_ASSIGN_OR_RETURN(int64_t width, fields.Integer("hidden_size", 1, 65536));
//
// A field that is null counts as absent.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

// INVALID_ARGUMENT naming `path` and the byte offset.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view path);

// `text` in double quotes for an error message: control characters escaped, cut when long.
std::string Quoted(absl::string_view text);

class JsonFields {
 public:
  // Both must outlive this.
  JsonFields(const nlohmann::json& object, absl::string_view path) : object_(object), path_(path) {}

  // Present and not null.
  bool Has(absl::string_view key) const { return Get(key) != nullptr; }
  // In the file, be it null.
  bool Mentions(absl::string_view key) const;
  // nullptr when absent or null.
  const nlohmann::json* Get(absl::string_view key) const;

  // INVALID_ARGUMENT when missing, of another type, or outside [low, high].
  absl::StatusOr<int64_t> Integer(absl::string_view key, int64_t low, int64_t high) const;
  absl::StatusOr<double> Number(absl::string_view key, double low, double high) const;
  absl::StatusOr<std::string> Text(absl::string_view key) const;
  absl::StatusOr<bool> Boolean(absl::string_view key) const;

  // "<path>: <key> <message>".
  absl::Status Error(absl::string_view key, absl::string_view message) const;
  const std::string& path() const { return path_; }

 private:
  absl::StatusOr<const nlohmann::json*> Require(absl::string_view key) const;
  const nlohmann::json& object_;
  std::string path_;
};

}  // namespace baton
