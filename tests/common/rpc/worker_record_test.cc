// What workers write into a directory, and what readers make of anything else.
#include "common/rpc/worker_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

constexpr char kRecord[] = R"({"role":"decode","endpoint":"10.0.0.7:7201","model":"gemma","boot":"b1"})";

TEST(WorkerRecordTest, ReadsWhatItWrites) {
  const WorkerRecord record = {"decode", "10.0.0.7:7201", "gemma", "b1"};
  EXPECT_EQ(SerializeWorkerRecord(record), kRecord);
  const absl::StatusOr<WorkerRecord> read = ParseWorkerRecord(kRecord);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->role, "decode");
  EXPECT_EQ(read->endpoint, "10.0.0.7:7201");
  EXPECT_EQ(read->model, "gemma");
  EXPECT_EQ(read->boot_id, "b1");
  EXPECT_EQ(WorkerRecordKey("/baton/workers/", *read), "/baton/workers/decode/b1");
}

TEST(WorkerRecordTest, LaterVersionsMaySayMore) {
  EXPECT_TRUE(
      ParseWorkerRecord(R"({"role":"prefill","endpoint":"[::1]:7","model":"m","boot":"b","zone":"a","n":[1]})").ok());
}

TEST(WorkerRecordTest, EverythingElseIsRefused) {
  const struct {
    std::string text;
    std::string problem;
  } cases[] = {
      {"", "JSON object"},
      {"[]", "JSON object"},
      {"{", "JSON object"},
      {"{}", "\"role\""},
      {R"({"role":1,"endpoint":"h:1","model":"m","boot":"b"})", "\"role\""},
      {R"({"role":"gateway","endpoint":"h:1","model":"m","boot":"b"})", "prefill or decode"},
      {R"({"role":"decode","endpoint":"h","model":"m","boot":"b"})", "HOST:PORT"},
      {R"({"role":"decode","endpoint":"h:99999","model":"m","boot":"b"})", "0 to 65535"},
      {R"({"role":"decode","endpoint":"h:1","model":"a b","boot":"b"})", "printable"},
      {R"({"role":"decode","endpoint":"h:1","model":"m","boot":""})", "printable"},
      {absl::StrCat(R"({"role":"decode","endpoint":"h:1","model":")", std::string(200, 'm'), R"(","boot":"b"})"),
       "128"},
      {absl::StrCat(std::string(5000, ' '), kRecord), "too long"},
      {std::string(3000, '['), "JSON object"},
  };
  for (const auto& test : cases) {
    const absl::StatusOr<WorkerRecord> record = ParseWorkerRecord(test.text);
    EXPECT_TRUE(absl::IsInvalidArgument(record.status())) << test.text;
    EXPECT_THAT(std::string(record.status().message()), HasSubstr(test.problem)) << test.text;
  }
}

}  // namespace
}  // namespace baton
