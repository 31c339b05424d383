#include "common/base/host_port.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace baton {

absl::optional<HostPort> SplitHostPort(absl::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return absl::nullopt;
  absl::string_view host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return HostPort{std::string(host), std::string(text.substr(colon + 1))};
}

std::string HostPortProblem(absl::string_view text) {
  std::string problem = absl::StrCat("expected HOST:PORT, got \"", std::string(text), "\"");
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return problem;
  const absl::string_view host = text.substr(0, colon);
  const absl::string_view port_text = text.substr(colon + 1);
  const bool bracketed = host.front() == '[' && host.back() == ']' && host.size() > 2;
  if (!bracketed && host.find(':') != absl::string_view::npos) {
    return absl::StrCat("an IPv6 address needs brackets: [ADDRESS]:PORT, got \"", std::string(text), "\"");
  }
  if (host.find_first_of(" \t\r\n/") != absl::string_view::npos) return problem;
  int port = 0;
  const bool digits = !port_text.empty() && port_text.find_first_not_of("0123456789") == absl::string_view::npos;
  if (!digits || !absl::SimpleAtoi(port_text, &port) || port > 65535) {
    return absl::StrCat("the port of \"", std::string(text), "\" must be a number from 0 to 65535");
  }
  return "";
}

}  // namespace baton
