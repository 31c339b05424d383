// The flags of a generation request, shared by `generate` and `chat`: every field of SamplingParams, StoppingParams and
// OutputParams. A flag that was not given leaves its field unset, so that the model's default applies. Ranges are the
// gateway's to check; it names every field that is wrong.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "baton/v1/inference.pb.h"

namespace baton::cli {

struct RequestOptions {
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> typical_p;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::vector<std::string> logit_bias;  // ID=VALUE
  std::vector<int32_t> allowed_token_ids;
  std::optional<uint64_t> seed;

  std::optional<int32_t> max_new_tokens;
  std::optional<int32_t> min_new_tokens;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;
  std::optional<float> time_limit_seconds;

  bool logprobs = false;
  std::optional<int32_t> top_logprobs;
  bool prompt_logprobs = false;

  std::optional<int32_t> priority;
  std::string request_id;
};

// `options` must outlive `command`.
void AddSamplingFlags(CLI::App* command, RequestOptions* options);
void AddStoppingFlags(CLI::App* command, RequestOptions* options);
void AddOutputFlags(CLI::App* command, RequestOptions* options);
// --priority and --request-id.
void AddSchedulingFlags(CLI::App* command, RequestOptions* options);

// Sets all but model and prompt. INVALID_ARGUMENT for what the request can't express.
absl::Status FillRequest(const RequestOptions& options, v1::GenerateRequest* request);

}  // namespace baton::cli
