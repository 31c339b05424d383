#include "common/rpc/worker_service.h"

#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using worker::v1::GetInfoRequest;
using worker::v1::GetTokenizerRequest;
using worker::v1::Load;
using worker::v1::StateBytes;
using worker::v1::TokenizerPiece;
using worker::v1::WatchLoadRequest;
using worker::v1::Worker;
using worker::v1::WorkerInfo;

class WorkerServiceTest : public testing::Test {
 protected:
  WorkerServiceTest() {
    for (size_t i = 0; i < (size_t{5} << 19); ++i) tokenizer_.push_back(static_cast<char>(i * 7));
    WorkerInfo info;
    info.set_model_name("m");
    service_ = std::make_unique<WorkerService>(info, tokenizer_, &load_);
    server_.AddService(service_.get());
    EXPECT_TRUE(server_.Start().ok());
    stub_ = Worker::NewStub(NewChannel(server_.address()));
  }
  ~WorkerServiceTest() override { server_.Stop(absl::ZeroDuration()); }

  std::string tokenizer_;
  MemoryBudget budget_{1000};
  LoadReporter load_{&budget_};
  std::unique_ptr<WorkerService> service_;
  RpcServer server_{{.listen = "127.0.0.1:0"}};
  std::unique_ptr<Worker::Stub> stub_;
};

TEST_F(WorkerServiceTest, InfoComesWithUptime) {
  grpc::ClientContext context;
  WorkerInfo info;
  ASSERT_TRUE(stub_->GetInfo(&context, GetInfoRequest(), &info).ok());
  EXPECT_EQ(info.model_name(), "m");
  EXPECT_GT(info.uptime_seconds(), 0);
}

TEST_F(WorkerServiceTest, TokenizerComesInPieces) {
  grpc::ClientContext context;
  auto reader = stub_->GetTokenizer(&context, GetTokenizerRequest());
  std::string all;
  int pieces = 0;
  for (TokenizerPiece piece; reader->Read(&piece); ++pieces) {
    EXPECT_LE(piece.data().size(), size_t{1} << 20);
    all += piece.data();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(pieces, 3);
  EXPECT_EQ(all, tokenizer_);
}

TEST_F(WorkerServiceTest, ATokenizerStreamMayBeLeft) {
  grpc::ClientContext context;
  auto reader = stub_->GetTokenizer(&context, GetTokenizerRequest());
  TokenizerPiece piece;
  EXPECT_TRUE(reader->Read(&piece));
  context.TryCancel();
  // All of it may have been on its way already.
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::CANCELLED) << status.error_message();
  // The next one finds the server as it was.
  grpc::ClientContext next_context;
  reader = stub_->GetTokenizer(&next_context, GetTokenizerRequest());
  std::string all;
  while (reader->Read(&piece)) all += piece.data();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(all, tokenizer_);
}

TEST_F(WorkerServiceTest, WatchersSeeEveryKindOfChange) {
  grpc::ClientContext first_context;
  grpc::ClientContext second_context;
  auto first = stub_->WatchLoad(&first_context, WatchLoadRequest());
  auto second = stub_->WatchLoad(&second_context, WatchLoadRequest());
  const auto expect_soon = [&](const std::function<bool(const Load&)>& condition) {
    for (auto* reader : {first.get(), second.get()}) {
      Load load;
      while (reader->Read(&load)) {
        if (condition(load)) break;
      }
      EXPECT_TRUE(condition(load));
    }
  };
  expect_soon([](const Load& load) { return load.state_bytes_total() == 1000 && load.state_bytes_used() == 0; });
  MemoryReservation reservation = budget_.Reserve(300).value();
  expect_soon([](const Load& load) { return load.state_bytes_used() == 300; });
  load_.SetRunning(3);
  expect_soon([](const Load& load) { return load.running() == 3; });
  load_.SetQueued(4);
  expect_soon([](const Load& load) { return load.queued() == 4; });
  load_.SetQueuedTokens(5000);
  expect_soon([](const Load& load) { return load.queued_tokens() == 5000; });
  // The rate falls back to 0 a second after the last token, so tokens keep coming until both have seen it.
  expect_soon([&](const Load& load) {
    load_.AddTokens(1000000);
    return load.tokens_per_second() > 0;
  });
  load_.AddStep(3);
  load_.AddStep(5);
  load_.AddComputedPrompt(100);
  load_.AddCachedPrompt(60);
  expect_soon([](const Load& load) {
    return load.steps_done() == 2 && load.step_sequences() == 8 && load.prompt_tokens_computed() == 100 &&
           load.prompt_tokens_cached() == 60;
  });
  // What is kept and given up when needed is told by itself, and not as used.
  load_.SetKeptSessions(2, 120);
  load_.SetCheckpoints(1, 80);
  expect_soon([](const Load& load) {
    return load.kept_sessions() == 2 && load.kept_session_bytes() == 120 && load.checkpoints() == 1 &&
           load.checkpoint_bytes() == 80 && load.state_bytes_used() == 100;
  });
  load_.SetDraining();
  expect_soon([](const Load& load) { return load.draining(); });

  // One watcher leaves, the other goes on.
  first_context.TryCancel();
  EXPECT_FALSE(first->Finish().ok());
  load_.SetRunning(7);
  Load load;
  while (second->Read(&load) && load.running() != 7) {
  }
  EXPECT_EQ(load.running(), 7);

  service_->EndWatches();
  while (second->Read(&load)) {
  }
  EXPECT_EQ(second->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  // And none begins any more.
  grpc::ClientContext late_context;
  auto late = stub_->WatchLoad(&late_context, WatchLoadRequest());
  while (late->Read(&load)) {
  }
  EXPECT_EQ(late->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WorkerServiceTest, WatchersHearWhichPrefixesAreCached) {
  load_.prefixes().Set(1, true);
  load_.prefixes().Set(2, true);
  grpc::ClientContext first_context;
  auto first = stub_->WatchLoad(&first_context, WatchLoadRequest());
  KnownPrefixes first_known;
  const auto read_until = [](grpc::ClientReader<Load>& reader, KnownPrefixes& known, auto&& condition) {
    Load load;
    while (!condition() && reader.Read(&load)) {
      if (load.has_prefixes()) known.Apply(load.prefixes());
    }
    EXPECT_TRUE(condition());
  };
  read_until(*first, first_known, [&] { return first_known.size() == 2; });
  load_.prefixes().Set(1, false);
  load_.prefixes().Set(3, true);
  load_.prefixes().Set(4, true);
  // Who comes later hears everything.
  grpc::ClientContext second_context;
  auto second = stub_->WatchLoad(&second_context, WatchLoadRequest());
  KnownPrefixes second_known;
  read_until(*first, first_known, [&] { return first_known.size() == 3; });
  read_until(*second, second_known, [&] { return second_known.size() == 3; });
  for (const KnownPrefixes* known : {&first_known, &second_known}) {
    EXPECT_FALSE(known->Contains(1));
    EXPECT_TRUE(known->Contains(2) && known->Contains(3) && known->Contains(4));
  }
  first_context.TryCancel();
  second_context.TryCancel();
}

// The formula a gateway computes with, against what a state takes.
int64_t Evaluate(const StateBytes& bytes, int64_t tokens) {
  int64_t sum = bytes.fixed();
  for (const StateBytes::Growth& growth : bytes.growth()) {
    sum += growth.per_token() * (growth.limit() == 0 ? tokens : std::min(tokens, growth.limit()));
  }
  return sum;
}

TEST(WorkerInfoTest, DescribesTheModel) {
  for (const std::string name : {"tiny-gemma2", "tiny-recurrentgemma"}) {
    ModelOptions options;
    options.threads = 1;
    const auto model = Model::Load(std::string(BATON_BUNDLED_MODELS) + "/" + name, options);
    ASSERT_TRUE(model.ok()) << model.status();
    for (const int run_tokens : {1, 512}) {
      const std::shared_ptr<const StateLayout> layout = (*model)->MakeStateLayout(run_tokens);
      WorkerIdentity identity;
      identity.role = WorkerInfo::DECODE;
      identity.boot_id = "b";
      identity.model_name = name;
      identity.max_tokens = 777;
      identity.state_bytes_total = 123456;
      const WorkerInfo info = MakeWorkerInfo(identity, **model, *layout);
      EXPECT_EQ(info.role(), WorkerInfo::DECODE);
      EXPECT_EQ(info.family(), name == "tiny-gemma2" ? "gemma2" : "recurrent_gemma");
      EXPECT_EQ(info.fingerprint(), (*model)->fingerprint().ToBytes());
      EXPECT_EQ(info.compute(), "bf16");
      EXPECT_EQ(info.vocab_size(), 2048);
      EXPECT_EQ(info.max_tokens(), 777);
      EXPECT_EQ(info.state_bytes_total(), 123456);
      EXPECT_EQ(info.parameters(), (*model)->parameters());
      EXPECT_GE(info.generation().eos_token_ids_size(), 1);
      EXPECT_EQ(info.tokenizer_hash().size(), 32u);
      int64_t page_bytes = 0;
      for (const LayerStateSpec& layer : layout->layers) {
        if (layer.kind != LayerStateSpec::Kind::kRecurrent) page_bytes += layout->PageBytes(layer);
      }
      EXPECT_EQ(info.state_bytes().page_tokens(), layout->page_tokens);
      // Blocks begin at cache lines.
      const int64_t slack = page_bytes + 64 * static_cast<int64_t>(layout->layers.size());
      for (const int64_t tokens : {1, 63, 64, 65, 100, 575, 576, 577, 777}) {
        const int64_t formula = Evaluate(info.state_bytes(), tokens);
        EXPECT_LE(formula, layout->BytesFor(tokens));
        EXPECT_GE(formula + slack, layout->BytesFor(tokens)) << name << " " << tokens;
      }
    }
  }
}

TEST(WorkerInfoTest, TokenizerHashIsXxh3) {
  // XXH3-128 of no bytes, from its specification.
  EXPECT_EQ(TokenizerHash(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_NE(TokenizerHash("a"), TokenizerHash("b"));
}

}  // namespace
}  // namespace baton
