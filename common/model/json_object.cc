#include "common/model/json_object.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

using nlohmann::json;

// Nothing we read nests deeper than four levels.
constexpr size_t kMaxDepth = 32;

std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

// Builds the value from parser events; stops at the first fault and keeps its description.
class StrictBuilder : public nlohmann::json_sax<json> {
 public:
  StrictBuilder() noexcept(false) = default;
  StrictBuilder(const StrictBuilder&) = delete;  // holds pointers into itself

  json& root() { return root_; }
  const std::string& fault() const { return fault_; }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("holds binary data"); }
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    auto [position, inserted] = open_.back()->emplace(name, nullptr);
    if (!inserted) return Fail(absl::StrCat("has the key ", Quoted(name), " twice"));
    slot_ = &*position;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("is not valid JSON at byte ", position));
  }

 private:
  // Pointers in open_ stay valid: only the innermost container grows, and none above it does until it closes.
  json* Place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  bool Add(json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(json container) {
    if (open_.size() == kMaxDepth) return Fail(absl::StrCat("nests more than ", kMaxDepth, " levels deep"));
    open_.push_back(Place(std::move(container)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }
  bool Fail(std::string fault) {
    fault_ = std::move(fault);
    return false;
  }

  json root_;
  std::vector<json*> open_;
  json* slot_ = nullptr;
  std::string fault_;
};

}  // namespace

std::string Quoted(absl::string_view text) {
  constexpr size_t kLongest = 200;
  if (text.size() <= kLongest) return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text), "\"");
  size_t cut = kLongest;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;  // not inside a UTF-8 character
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text.substr(0, cut)), "...\"");
}

absl::StatusOr<json> ParseJsonObject(absl::string_view text, absl::string_view path) {
  StrictBuilder builder;
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", builder.fault()));
  }
  if (!builder.root().is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected a JSON object, found a JSON ", builder.root().type_name()));
  }
  return std::move(builder.root());
}

bool JsonFields::Mentions(absl::string_view key) const { return object_.contains(ToStd(key)); }

const json* JsonFields::Get(absl::string_view key) const {
  const auto field = object_.find(ToStd(key));
  return field == object_.end() || field->is_null() ? nullptr : &*field;
}

absl::Status JsonFields::Error(absl::string_view key, absl::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": ", key, " ", message));
}

absl::StatusOr<const json*> JsonFields::Require(absl::string_view key) const {
  const json* value = Get(key);
  if (value == nullptr) return Error(key, Mentions(key) ? "is null, but is required" : "is missing");
  return value;
}

absl::StatusOr<int64_t> JsonFields::Integer(absl::string_view key, int64_t low, int64_t high) const {
  BATON_ASSIGN_OR_RETURN(const json* value, Require(key));
  if (!value->is_number_integer())
    return Error(key, absl::StrCat("is a ", value->type_name(), ", expected an integer"));
  // An unsigned beyond int64 would wrap.
  const bool too_large = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX};
  const int64_t number = too_large ? INT64_MAX : value->get<int64_t>();
  if (too_large || number < low || number > high) {
    return Error(key, absl::StrCat("is ", value->dump(), ", expected ", low, " to ", high));
  }
  return number;
}

absl::StatusOr<double> JsonFields::Number(absl::string_view key, double low, double high) const {
  BATON_ASSIGN_OR_RETURN(const json* value, Require(key));
  if (!value->is_number()) return Error(key, absl::StrCat("is a ", value->type_name(), ", expected a number"));
  const double number = value->get<double>();
  if (!std::isfinite(number) || number < low || number > high) {
    return Error(key, absl::StrFormat("is %g, expected %g to %g", number, low, high));
  }
  return number;
}

absl::StatusOr<std::string> JsonFields::Text(absl::string_view key) const {
  BATON_ASSIGN_OR_RETURN(const json* value, Require(key));
  if (!value->is_string()) return Error(key, absl::StrCat("is a ", value->type_name(), ", expected a string"));
  return value->get<std::string>();
}

absl::StatusOr<bool> JsonFields::Boolean(absl::string_view key) const {
  BATON_ASSIGN_OR_RETURN(const json* value, Require(key));
  if (!value->is_boolean()) return Error(key, absl::StrCat("is a ", value->type_name(), ", expected true or false"));
  return value->get<bool>();
}

}  // namespace baton
