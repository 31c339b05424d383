#include "gateway/srv_records.h"

#include <arpa/nameser.h>
#include <netdb.h>
#include <resolv.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace baton {
namespace {

// What a DNS answer over TCP can be.
constexpr size_t kMaxAnswerBytes = 65536;
// Priority, weight and port come before the host.
constexpr size_t kFixedBytes = 6;

class ResolverState {
 public:
  ResolverState() : ok_(res_ninit(&state_) == 0) {}
  ~ResolverState() {
    if (ok_) res_nclose(&state_);
  }
  ResolverState(const ResolverState&) = delete;
  bool ok() const { return ok_; }
  res_state get() { return &state_; }

 private:
  struct __res_state state_ = {};
  const bool ok_;
};

}  // namespace

absl::StatusOr<std::vector<SrvRecord>> LookUpSrv(const std::string& name) {
  // Of its own, so that changes of /etc/resolv.conf are seen.
  ResolverState state;
  if (!state.ok()) return absl::UnavailableError("the system's name servers are not configured");
  std::vector<uint8_t> answer(kMaxAnswerBytes);
  const int bytes = res_nsearch(state.get(), name.c_str(), ns_c_in, ns_t_srv, answer.data(), kMaxAnswerBytes);
  if (bytes < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot look up the SRV records of ", name, ": ", hstrerror(state.get()->res_h_errno)));
  }
  answer.resize(std::min(static_cast<size_t>(bytes), kMaxAnswerBytes));
  return ParseSrvAnswer(answer);
}

absl::StatusOr<std::vector<SrvRecord>> ParseSrvAnswer(absl::Span<const uint8_t> answer) {
  ns_msg message;
  if (ns_initparse(answer.data(), static_cast<int>(answer.size()), &message) != 0) {
    return absl::UnavailableError("the name server's answer is broken");
  }
  std::vector<SrvRecord> records;
  const int count = ns_msg_count(message, ns_s_an);
  for (int i = 0; i < count; ++i) {
    ns_rr record;
    if (ns_parserr(&message, ns_s_an, i, &record) != 0) {
      return absl::UnavailableError("the name server's answer is broken");
    }
    // CNAMEs may come before.
    if (ns_rr_type(record) != ns_t_srv || ns_rr_class(record) != ns_c_in) continue;
    if (ns_rr_rdlen(record) <= kFixedBytes) return absl::UnavailableError("the name server's answer is broken");
    const uint8_t* const data = ns_rr_rdata(record);
    char host[NS_MAXDNAME];
    if (ns_name_uncompress(ns_msg_base(message), ns_msg_end(message), data + kFixedBytes, host, sizeof(host)) < 0) {
      return absl::UnavailableError("the name server's answer is broken");
    }
    SrvRecord srv;
    srv.priority = static_cast<uint16_t>(ns_get16(data));
    srv.port = static_cast<uint16_t>(ns_get16(data + 4));
    srv.host = host;
    // A root host says that there is no such service.
    if (srv.host.empty() || srv.host == "." || srv.port == 0) continue;
    records.push_back(std::move(srv));
  }
  if (records.empty()) return absl::UnavailableError("the name has no SRV records");
  const auto by_priority = [](const SrvRecord& a, const SrvRecord& b) { return a.priority < b.priority; };
  const uint16_t lowest = std::min_element(records.begin(), records.end(), by_priority)->priority;
  records.erase(std::remove_if(records.begin(), records.end(),
                               [&](const SrvRecord& record) { return record.priority != lowest; }),
                records.end());
  return records;
}

}  // namespace baton
