#include "gateway/cli/token_source.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "gateway/cli/model_choice.h"

namespace baton::cli {
namespace {

class GatewayTokens final : public TokenSource {
 public:
  GatewayTokens(std::string model, Session& session) : model_(std::move(model)), session_(session) {}

  absl::StatusOr<v1::TokenizeResponse> Tokenize(v1::TokenizeRequest request) override {
    request.set_model(model_);
    v1::TokenizeResponse response;
    BATON_RETURN_IF_ERROR(session_.Call(
        [&](grpc::ClientContext* context) { return session_.inference().Tokenize(context, request, &response); },
        kQuickCall));
    return response;
  }

  absl::StatusOr<v1::DetokenizeResponse> Detokenize(v1::DetokenizeRequest request) override {
    request.set_model(model_);
    v1::DetokenizeResponse response;
    BATON_RETURN_IF_ERROR(session_.Call(
        [&](grpc::ClientContext* context) { return session_.inference().Detokenize(context, request, &response); },
        kQuickCall));
    return response;
  }

  int parallel() const override { return 8; }

 private:
  const std::string model_;
  Session& session_;
};

class DirectoryTokens final : public TokenSource {
 public:
  explicit DirectoryTokens(std::unique_ptr<Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}

  absl::StatusOr<v1::TokenizeResponse> Tokenize(v1::TokenizeRequest request) override {
    BATON_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(request));
    v1::TokenizeResponse response;
    for (const int32_t id : ids) {
      response.add_ids(id);
      response.add_pieces(tokenizer_->TokenBytes(id, /*keep_special=*/true));
    }
    return response;
  }

  absl::StatusOr<v1::DetokenizeResponse> Detokenize(v1::DetokenizeRequest request) override {
    for (const int32_t id : request.ids()) {
      if (id < 0 || id >= tokenizer_->vocab_size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("token id ", id, " is not in 0..", tokenizer_->vocab_size() - 1));
      }
    }
    v1::DetokenizeResponse response;
    response.set_text(
        tokenizer_->Decode(std::vector<int32_t>(request.ids().begin(), request.ids().end()), request.keep_special()));
    return response;
  }

  int parallel() const override { return 1; }

 private:
  absl::StatusOr<std::vector<int32_t>> Encode(const v1::TokenizeRequest& request) const {
    if (request.has_chat()) {
      std::vector<ChatTurn> turns;
      for (const v1::ChatMessage& message : request.chat().messages()) {
        turns.push_back({message.role(), message.content()});
      }
      return EncodeChat(*tokenizer_, turns);
    }
    const v1::TextPrompt& text = request.text();
    BATON_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                           tokenizer_->Encode(text.text(), {.parse_special = text.parse_special()}));
    if (!text.has_add_bos() || text.add_bos()) ids.insert(ids.begin(), tokenizer_->bos_id());
    return ids;
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenSource>> TokenSource::Make(const std::string& model_dir, Session& session) {
  if (!model_dir.empty()) {
    const std::string path = absl::StrCat(model_dir, "/tokenizer.model");
    BATON_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromModel(bytes);
    if (!tokenizer.ok()) {
      return absl::Status(tokenizer.status().code(), absl::StrCat(path, ": ", tokenizer.status().message()));
    }
    return std::unique_ptr<TokenSource>(std::make_unique<DirectoryTokens>(*std::move(tokenizer)));
  }
  BATON_RETURN_IF_ERROR(session.Connect());
  BATON_ASSIGN_OR_RETURN(std::string model, ChooseModel(session));
  return std::unique_ptr<TokenSource>(std::make_unique<GatewayTokens>(std::move(model), session));
}

}  // namespace baton::cli
