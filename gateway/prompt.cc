#include "gateway/prompt.h"

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/text/chat_template.h"

namespace baton {
namespace {

// Null, with a refusal, when the model takes token ids only.
const Tokenizer* TokenizerOf(const ServedModel& model, Violations* violations) {
  if (model.tokenizer == nullptr) {
    violations->Refuse(absl::FailedPreconditionError(
        absl::StrCat("model ", model.name, " has no tokenizer: give the prompt as token ids")));
  }
  return model.tokenizer.get();
}

void AddEncodeError(const absl::Status& status, const std::string& field, Violations* violations) {
  if (absl::IsInvalidArgument(status)) {
    violations->Add(field, std::string(status.message()));
  } else {
    violations->Refuse(status);
  }
}

std::vector<int32_t> EncodeTurns(const v1::ChatPrompt& prompt, const ServedModel& model, Violations* violations,
                                 absl::StatusOr<std::vector<int32_t>> (*encode)(const Tokenizer&,
                                                                                absl::Span<const ChatTurn>)) {
  const Tokenizer* const tokenizer = TokenizerOf(model, violations);
  if (tokenizer == nullptr) return {};
  std::vector<ChatTurn> turns;
  turns.reserve(static_cast<size_t>(prompt.messages_size()));
  for (const v1::ChatMessage& message : prompt.messages()) turns.push_back({message.role(), message.content()});
  absl::StatusOr<std::vector<int32_t>> ids = encode(*tokenizer, turns);
  if (ids.ok()) return *std::move(ids);
  AddEncodeError(ids.status(), "chat.messages", violations);
  return {};
}

}  // namespace

std::vector<int32_t> EncodeTextPrompt(const v1::TextPrompt& prompt, const ServedModel& model, Violations* violations) {
  const Tokenizer* const tokenizer = TokenizerOf(model, violations);
  if (tokenizer == nullptr) return {};
  EncodeOptions options;
  options.parse_special = prompt.parse_special();
  const absl::StatusOr<std::vector<int32_t>> encoded = tokenizer->Encode(prompt.text(), options);
  if (!encoded.ok()) {
    AddEncodeError(encoded.status(), "text.text", violations);
    return {};
  }
  std::vector<int32_t> ids;
  ids.reserve(encoded->size() + 1);
  const bool add_bos = !prompt.has_add_bos() || prompt.add_bos();
  if (add_bos && tokenizer->bos_id() >= 0) ids.push_back(tokenizer->bos_id());
  ids.insert(ids.end(), encoded->begin(), encoded->end());
  return ids;
}

std::vector<int32_t> EncodeTokenPrompt(const v1::TokenPrompt& prompt, const std::string& field,
                                       const ServedModel& model, Violations* violations) {
  CheckTokenIds(prompt.ids(), field, model.vocab_size, violations);
  return {prompt.ids().begin(), prompt.ids().end()};
}

std::vector<int32_t> EncodeChatPrompt(const v1::ChatPrompt& prompt, const ServedModel& model, Violations* violations) {
  return EncodeTurns(prompt, model, violations, EncodeChat);
}

std::vector<int32_t> EncodeNextTurns(const v1::ChatPrompt& prompt, const ServedModel& model, Violations* violations) {
  return EncodeTurns(prompt, model, violations, EncodeNextTurns);
}

std::vector<int32_t> EncodeContinuation(const std::string& text, const std::string& field, const ServedModel& model,
                                        Violations* violations, bool parse_special) {
  const Tokenizer* const tokenizer = TokenizerOf(model, violations);
  if (tokenizer == nullptr) return {};
  EncodeOptions options;
  options.parse_special = parse_special;
  absl::StatusOr<std::vector<int32_t>> ids = tokenizer->Encode(text, options);
  if (ids.ok()) return *std::move(ids);
  AddEncodeError(ids.status(), field, violations);
  return {};
}

void CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, const std::string& field, int64_t vocab_size,
                   Violations* violations) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    violations->Add(absl::StrCat(field, "[", i, "]"),
                    absl::StrCat("token id ", ids[i], " is not in [0, ", vocab_size, ")"));
    return;  // One is enough to find the mistake.
  }
}

}  // namespace baton
