#include "commands.hpp"

namespace tool {

Json report(const allrounder::Answer& answer) {
  const allrounder::Timing timing = answer.timing();
  const Json times = {{"preprocess_ms", timing.preprocess_ms},
                      {"vision_ms", timing.vision_ms},
                      {"router_ms", timing.router_ms},
                      {"prefill_ms", timing.prefill_ms},
                      {"decode_ms", timing.decode_ms},
                      {"ttft_ms", timing.ttft_ms},
                      {"tpot_ms", timing.tpot_ms ? Json(*timing.tpot_ms) : Json()}};
  const allrounder::Usage usage = answer.usage();
  const Json tokens = {{"text_tokens", usage.text_tokens},
                       {"image_tokens", usage.image_tokens},
                       {"kept_image_tokens", usage.kept_image_tokens},
                       {"new_tokens", usage.new_tokens}};
  return {{"text", answer.text()},
          {"token_ids", answer.token_ids()},
          {"prompt_ids", answer.prompt_ids()},
          {"keep_indices", answer.keep_indices()},
          {"kept_layers", answer.kept_layers()},
          {"usage", tokens},
          {"finish", answer.finish() == AR_FINISH_STOP ? "stop" : "length"},
          {"timing", times}};
}

std::string line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace tool
