#include "common/text/sentencepiece_encoder.h"

#include <sentencepiece_processor.h>

#include <exception>

namespace baton {
namespace {

class Encoder final : public SentencePieceEncoder {
 public:
  bool Load(std::string_view serialized_model, std::string* error) {
    try {
      const auto status = processor_.LoadFromSerializedProto(serialized_model);
      if (!status.ok()) *error = status.ToString();
      return status.ok();
    } catch (const std::exception& exception) {
      *error = exception.what();
      return false;
    }
  }

  bool Encode(std::string_view text, std::vector<int32_t>* ids, std::string* error) const override {
    try {
      std::vector<int> found;
      const auto status = processor_.Encode(text, &found);
      if (!status.ok()) *error = status.ToString();
      ids->insert(ids->end(), found.begin(), found.end());
      return status.ok();
    } catch (const std::exception& exception) {
      *error = exception.what();
      return false;
    }
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<SentencePieceEncoder> SentencePieceEncoder::Load(std::string_view serialized_model,
                                                                 std::string* error) {
  auto encoder = std::make_unique<Encoder>();
  if (!encoder->Load(serialized_model, error)) return nullptr;
  return encoder;
}

}  // namespace baton
