#include "report.hpp"

namespace tool {
namespace {

nlohmann::ordered_json times(const allrounder::Timing& timing) {
  nlohmann::ordered_json json;
  json["preprocess_ms"] = timing.preprocess_ms;
  json["vision_ms"] = timing.vision_ms;
  json["router_ms"] = timing.router_ms;
  json["prefill_ms"] = timing.prefill_ms;
  json["decode_ms"] = timing.decode_ms;
  json["ttft_ms"] = timing.ttft_ms;
  json["tpot_ms"] = timing.tpot_ms ? nlohmann::ordered_json(*timing.tpot_ms) : nlohmann::ordered_json();
  return json;
}

}  // namespace

nlohmann::ordered_json report(const allrounder::Answer& answer) {
  nlohmann::ordered_json json;
  json["text"] = answer.text();
  json["token_ids"] = answer.token_ids();
  json["prompt_ids"] = answer.prompt_ids();
  json["keep_indices"] = answer.keep_indices();
  json["kept_layers"] = answer.kept_layers();
  json["finish"] = answer.finish() == AR_FINISH_STOP ? "stop" : "length";
  json["timing"] = times(answer.timing());
  return json;
}

std::string line(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tool
