// What requests are checked against, and which of their fields were found wanting.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "gateway/request_check.h"
#include "google/rpc/error_details.pb.h"
#include "tests/gateway/fake_worker.h"

namespace baton {

inline std::shared_ptr<ServedModel> TestModel() {
  const worker::v1::WorkerInfo info = TestWorkerInfo(worker::v1::WorkerInfo::PREFILL);
  auto model = std::make_shared<ServedModel>();
  model->name = info.model_name();
  model->fingerprint = info.fingerprint();
  model->vocab_size = info.vocab_size();
  model->max_tokens = 512;
  model->generation = info.generation();
  model->generation.clear_do_sample();
  model->tokenizer = Tokenizer::FromModel(TestTokenizerBytes()).value();
  return model;
}

// Fields of the BadRequest in `status`.
inline std::vector<std::string> FieldsOf(const absl::Status& status) {
  std::vector<std::string> fields;
  const auto payload = status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
  google::rpc::BadRequest details;
  if (!payload.has_value() || !details.ParseFromString(std::string(*payload))) return fields;
  for (const auto& violation : details.field_violations()) {
    EXPECT_FALSE(violation.description().empty());
    fields.push_back(violation.field());
  }
  return fields;
}

}  // namespace baton
