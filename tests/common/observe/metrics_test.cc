#include "common/observe/metrics.h"

#include <netinet/in.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using testing::HasSubstr;

std::string Scrape(const Metrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.registry()->Collect());
}

TEST(MetricsTest, EverySeriesCarriesTheRole) {
  Metrics metrics("decode");
  metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}}).Increment(3);
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("baton_things_total{role=\"decode\",model=\"m\"} 3"));
  EXPECT_THAT(text, HasSubstr("baton_build_info{role=\"decode\",version="));
}

TEST(MetricsTest, TheSameLabelsGiveTheSameSeries) {
  Metrics metrics("prefill");
  prometheus::Counter& a = metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}});
  prometheus::Counter& b = metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}});
  prometheus::Counter& other = metrics.AddCounter("baton_things_total", "Things.", {{"model", "n"}});
  EXPECT_EQ(&a, &b);
  EXPECT_NE(&a, &other);
}

TEST(MetricsDeathTest, OneLabelSetForOneName) {
  Metrics metrics("prefill");
  metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}});
  EXPECT_DEATH(metrics.AddCounter("baton_things_total", "Things.", {{"kind", "m"}}), "check failed");
}

TEST(MetricsTest, BucketsAscend) {
  for (const auto* buckets : {&TtftBuckets(), &InterTokenBuckets(), &RequestSecondsBuckets(), &StepSecondsBuckets(),
                              &BytesBuckets(), &CountBuckets(), &TokensBuckets()}) {
    EXPECT_TRUE(std::is_sorted(buckets->begin(), buckets->end()));
    EXPECT_EQ(std::adjacent_find(buckets->begin(), buckets->end()), buckets->end());
  }
  EXPECT_DOUBLE_EQ(RequestSecondsBuckets().back(), 163.84);
  EXPECT_DOUBLE_EQ(StepSecondsBuckets().back(), 8.192);
  EXPECT_DOUBLE_EQ(BytesBuckets().back(), 4.0 * 1024 * 1024 * 1024);
}

TEST(MetricsServerTest, PicksAPortAndSaysWhenItIsTaken) {
  Metrics metrics("gateway");
  MetricsServer first(&metrics);
  ASSERT_TRUE(first.Start("127.0.0.1:0").ok());
  ASSERT_GT(first.port(), 0);
  MetricsServer second(&metrics);
  const absl::Status taken = second.Start("127.0.0.1:" + std::to_string(first.port()));
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(taken.message()), HasSubstr(std::to_string(first.port())));
}

// What the server at `port` answers to `request`, to the end of the connection.
std::string Ask(int port, const std::string& request) {
  const int peer = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(peer, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_GT(send(peer, request.data(), request.size(), MSG_NOSIGNAL), 0);
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = recv(peer, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, static_cast<size_t>(got));
  close(peer);
  return answer;
}

TEST(MetricsServerTest, AnswersScrapesAndNothingElse) {
  Metrics metrics("gateway");
  metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}}).Increment(3);
  MetricsServer server(&metrics);
  ASSERT_TRUE(server.Start("127.0.0.1:0").ok());
  for (int i = 0; i < 3; ++i) {
    const std::string answer = Ask(server.port(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(answer, testing::StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(answer, HasSubstr("baton_things_total{role=\"gateway\",model=\"m\"} 3"));
  }
  EXPECT_THAT(Ask(server.port(), "GET / HTTP/1.1\r\n\r\n"), testing::StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask(server.port(), "GET /metricsandmore HTTP/1.1\r\n\r\n"), testing::StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask(server.port(), "POST /metrics HTTP/1.1\r\n\r\n"), testing::StartsWith("HTTP/1.1 405 "));
  // No end of the head within the limit: dropped.
  EXPECT_EQ(Ask(server.port(), std::string(9000, 'x')), "");
}

}  // namespace
}  // namespace baton
