#include "gateway/cli/request_options.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/real_range.h"
#include "gateway/cli/input.h"

namespace baton::cli {
namespace {

// A repeatable option that takes one value at a time, whatever the value looks like.
template <typename T>
void AddRepeatable(CLI::App* command, const std::string& name, std::vector<T>* values, const std::string& description,
                   const std::string& type_name, const std::string& group) {
  command->add_option(name, *values, description)->allow_extra_args(false)->type_name(type_name)->group(group);
}

absl::Status FillLogitBias(const std::vector<std::string>& entries, v1::SamplingParams* sampling) {
  for (const std::string& entry : entries) {
    const size_t equals = entry.find('=');
    int32_t id = 0;
    float bias = 0;
    if (equals == std::string::npos || !absl::SimpleAtoi(entry.substr(0, equals), &id) ||
        !absl::SimpleAtof(entry.substr(equals + 1), &bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--logit-bias: \"", entry, "\" is not ID=VALUE, for example 1234=-5"));
    }
    (*sampling->mutable_logit_bias())[id] = bias;
  }
  return absl::OkStatus();
}

}  // namespace

void AddSamplingFlags(CLI::App* command, RequestOptions* options) {
  const std::string group = "Sampling (what is not given is the model's default)";
  command->add_option("-t,--temperature", options->temperature, "0 always takes the most likely token")
      ->type_name("NUMBER")
      ->group(group);
  command->add_option("--top-k", options->top_k, "Sample among the K most likely tokens; 0 is off")
      ->type_name("K")
      ->group(group);
  command->add_option("--top-p", options->top_p, "Sample among the likeliest tokens that make up P of the mass")
      ->type_name("P")
      ->group(group);
  command->add_option("--min-p", options->min_p, "Leave out tokens below P times the likeliest one's probability")
      ->type_name("P")
      ->group(group);
  command->add_option("--typical-p", options->typical_p, "Locally typical sampling with mass P; 1 is off")
      ->type_name("P")
      ->group(group);
  command->add_option("--repetition-penalty", options->repetition_penalty, "Over prompt and output; 1 is off")
      ->type_name("NUMBER")
      ->group(group);
  command->add_option("--presence-penalty", options->presence_penalty, "Over output, -2 to 2")
      ->type_name("NUMBER")
      ->group(group);
  command->add_option("--frequency-penalty", options->frequency_penalty, "Over output, -2 to 2")
      ->type_name("NUMBER")
      ->group(group);
  AddRepeatable(command, "--logit-bias", &options->logit_bias, "Add VALUE to a token's logit; repeatable", "ID=VALUE",
                group);
  AddRepeatable(command, "--allow-token", &options->allowed_token_ids, "Sample only these tokens; repeatable", "ID",
                group);
  command
      ->add_option("--seed", options->seed, "The same request and seed give the same answer")
      // Conversion to unsigned would wrap.
      ->check(RealRange(0.0, 0x1p64).description(""))
      ->type_name("N")
      ->group(group);
}

void AddStoppingFlags(CLI::App* command, RequestOptions* options) {
  const std::string group = "Stopping";
  command->add_option("--max-new-tokens", options->max_new_tokens, "Longest answer in tokens (default 256)")
      ->type_name("N")
      ->group(group);
  command->add_option("--min-new-tokens", options->min_new_tokens, "Shortest answer in tokens")
      ->type_name("N")
      ->group(group);
  AddRepeatable(command, "--stop", &options->stop, "End the answer before this text; repeatable", "TEXT", group);
  AddRepeatable(command, "--stop-token", &options->stop_token_ids, "End the answer at this token; repeatable", "ID",
                group);
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on past the model's end of turn")->group(group);
  command->add_flag("--include-stop", options->include_stop, "Keep the text or token that ended the answer")
      ->group(group);
  command->add_option("--time-limit", options->time_limit_seconds, "End the answer after this long")
      ->type_name("SECONDS")
      ->group(group);
}

void AddOutputFlags(CLI::App* command, RequestOptions* options) {
  const std::string group = "Output";
  command->add_flag("--logprobs", options->logprobs, "Show the log probability of each token")->group(group);
  command->add_option("--top-logprobs", options->top_logprobs, "Show the K most likely tokens at each step, up to 20")
      ->type_name("K")
      ->group(group);
  command->add_flag("--prompt-logprobs", options->prompt_logprobs, "Show the prompt's log probabilities too")
      ->group(group);
}

void AddSchedulingFlags(CLI::App* command, RequestOptions* options) {
  const std::string group = "Scheduling";
  command->add_option("--priority", options->priority, "-100 to 100; larger runs earlier")
      ->type_name("N")
      ->group(group);
  command->add_option("--request-id", options->request_id, "Name of the request in the servers' logs")
      ->type_name("ID")
      ->group(group);
}

absl::Status FillRequest(const RequestOptions& options, v1::GenerateRequest* request) {
  v1::SamplingParams* sampling = request->mutable_sampling();
  if (options.temperature) sampling->set_temperature(*options.temperature);
  if (options.top_k) sampling->set_top_k(*options.top_k);
  if (options.top_p) sampling->set_top_p(*options.top_p);
  if (options.min_p) sampling->set_min_p(*options.min_p);
  if (options.typical_p) sampling->set_typical_p(*options.typical_p);
  if (options.repetition_penalty) sampling->set_repetition_penalty(*options.repetition_penalty);
  if (options.presence_penalty) sampling->set_presence_penalty(*options.presence_penalty);
  if (options.frequency_penalty) sampling->set_frequency_penalty(*options.frequency_penalty);
  BATON_RETURN_IF_ERROR(FillLogitBias(options.logit_bias, sampling));
  for (const int32_t id : options.allowed_token_ids) sampling->add_allowed_token_ids(id);
  if (options.seed) sampling->set_seed(*options.seed);

  v1::StoppingParams* stopping = request->mutable_stopping();
  if (options.max_new_tokens) stopping->set_max_new_tokens(*options.max_new_tokens);
  if (options.min_new_tokens) stopping->set_min_new_tokens(*options.min_new_tokens);
  for (const std::string& stop : options.stop) {
    BATON_RETURN_IF_ERROR(CheckUtf8(stop, "text of --stop"));
    stopping->add_stop(stop);
  }
  for (const int32_t id : options.stop_token_ids) stopping->add_stop_token_ids(id);
  if (options.ignore_eos) stopping->set_ignore_eos(true);
  if (options.include_stop) stopping->set_include_stop_in_output(true);
  if (options.time_limit_seconds) stopping->set_time_limit_seconds(*options.time_limit_seconds);

  v1::OutputParams* output = request->mutable_output();
  if (options.logprobs || options.top_logprobs) output->set_logprobs(true);
  if (options.top_logprobs) output->set_top_logprobs(*options.top_logprobs);
  if (options.prompt_logprobs) output->set_prompt_logprobs(true);

  if (options.priority) request->set_priority(*options.priority);
  BATON_RETURN_IF_ERROR(CheckUtf8(options.request_id, "request id"));
  request->set_request_id(options.request_id);
  return absl::OkStatus();
}

}  // namespace baton::cli
