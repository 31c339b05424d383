// SRV answers, whole and broken.
#include "gateway/srv_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_split.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

void Append16(size_t value, std::vector<uint8_t>* out) {
  out->push_back(static_cast<uint8_t>(value >> 8));
  out->push_back(static_cast<uint8_t>(value));
}

void AppendName(const std::string& name, std::vector<uint8_t>* out) {
  for (const std::string& label : std::vector<std::string>(absl::StrSplit(name, '.', absl::SkipEmpty()))) {
    out->push_back(static_cast<uint8_t>(label.size()));
    out->insert(out->end(), label.begin(), label.end());
  }
  out->push_back(0);
}

// An answer to the question for SRV records of "_grpc._tcp.x".
class Answer {
 public:
  explicit Answer(size_t records) {
    for (const size_t field : {size_t{7}, size_t{0x8180}, size_t{1}, records, size_t{0}, size_t{0}}) {
      Append16(field, &bytes_);
    }
    AppendName("_grpc._tcp.x", &bytes_);
    Append16(33, &bytes_);
    Append16(1, &bytes_);
  }
  Answer& Record(int type, const std::vector<uint8_t>& data) {
    Append16(0xc00c, &bytes_);  // The question's name.
    for (const int field : {type, 1, 0, 30}) Append16(static_cast<size_t>(field), &bytes_);
    Append16(data.size(), &bytes_);
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    return *this;
  }
  Answer& Srv(int priority, int port, const std::string& host) {
    std::vector<uint8_t> data;
    for (const int field : {priority, 10, port}) Append16(static_cast<size_t>(field), &data);
    AppendName(host, &data);
    return Record(33, data);
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

TEST(SrvRecordsTest, HostsAndPortsOfTheLowestPriority) {
  std::vector<uint8_t> alias;
  AppendName("elsewhere.x", &alias);
  const Answer answer =
      Answer(4).Record(5, alias).Srv(2, 7201, "spare.x").Srv(1, 7202, "a.decode.x").Srv(1, 7203, "b.decode.x");
  const absl::StatusOr<std::vector<SrvRecord>> records = ParseSrvAnswer(answer.bytes());
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ((*records)[0].host, "a.decode.x");
  EXPECT_EQ((*records)[0].port, 7202);
  EXPECT_EQ((*records)[1].host, "b.decode.x");
  EXPECT_EQ((*records)[1].port, 7203);
}

TEST(SrvRecordsTest, ANameWithoutTheServiceIsUnavailable) {
  const absl::Status none = ParseSrvAnswer(Answer(0).bytes()).status();
  EXPECT_TRUE(absl::IsUnavailable(none));
  EXPECT_THAT(std::string(none.message()), HasSubstr("no SRV records"));
  // RFC 2782: the root as host says that there is decidedly no such service.
  EXPECT_TRUE(absl::IsUnavailable(ParseSrvAnswer(Answer(1).Srv(0, 7201, "").bytes()).status()));
}

TEST(SrvRecordsTest, NoPrefixOfAnAnswerIsAnAnswer) {
  const std::vector<uint8_t> whole = Answer(2).Srv(1, 7202, "a.decode.x").Srv(1, 7203, "b.decode.x").bytes();
  ASSERT_TRUE(ParseSrvAnswer(whole).ok());
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::vector<uint8_t> cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(length));
    EXPECT_TRUE(absl::IsUnavailable(ParseSrvAnswer(cut).status())) << length;
  }
}

TEST(SrvRecordsTest, ARecordWithoutAHostIsBroken) {
  EXPECT_TRUE(absl::IsUnavailable(ParseSrvAnswer(Answer(1).Record(33, {0, 1, 0, 1, 0x1c, 0x21}).bytes()).status()));
  // A compressed name that points at itself.
  const size_t self = Answer(1).bytes().size() + 12 + 6;
  const std::vector<uint8_t> loop = {
      0, 1, 0, 1, 0x1c, 0x21, static_cast<uint8_t>(0xc0 | (self >> 8)), static_cast<uint8_t>(self)};
  EXPECT_TRUE(absl::IsUnavailable(ParseSrvAnswer(Answer(1).Record(33, loop).bytes()).status()));
}

}  // namespace
}  // namespace baton
