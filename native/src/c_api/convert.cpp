// Between the structs of the C interface and the runtime's records.
#include <cstring>

#include "c_api/handles.hpp"

namespace ar {
namespace {

// Refuses a struct of another size than this library's: its fields would be read where they are not.
template <class T>
void check_size(const T& given, const char* name) {
  if (given.size == sizeof(T)) return;
  throw Error(AR_INPUT_INVALID, "this is not a struct of this interface",
              {std::string(name) + ".size", std::to_string(given.size), std::to_string(sizeof(T)),
               "zero it, set size to its sizeof, and compile with the c_api.h of this library"});
}

std::optional<double> figure(double value) { return value != 0 ? std::optional(value) : std::nullopt; }

std::optional<LatencyTarget> target_of(const ar_load_options& given) {
  if (given.ttft_ms == 0 && given.tpot_ms == 0) {
    if (given.percentile == 0) return std::nullopt;
    // A percentile alone is no target; 95 is what wrappers fill in.
    if (given.percentile != 50 && given.percentile != 95 && given.percentile != 99) {
      throw Error(AR_INPUT_INVALID, "unknown percentile",
                  {"percentile", std::to_string(given.percentile), "50, 95 or 99", ""});
    }
    return std::nullopt;
  }
  return LatencyTarget{figure(given.ttft_ms), figure(given.tpot_ms), given.percentile != 0 ? given.percentile : 95};
}

Weights weights_of(const ar_weights& given) {
  // A program may give any number, which is no value of the enumeration: it is read as the number it is.
  static_assert(sizeof(int) == sizeof(ar_weights));
  int number = 0;
  std::memcpy(&number, &given, sizeof number);
  switch (number) {
    case AR_WEIGHTS_FAST:
      return Weights::kFast;
    case AR_WEIGHTS_SHARED:
      return Weights::kShared;
    default:
      throw Error(AR_INPUT_INVALID, "unknown mode",
                  {"weights", std::to_string(number), "AR_WEIGHTS_FAST or AR_WEIGHTS_SHARED", ""});
  }
}

std::string text_of(const char* text, std::size_t bytes) { return bytes != 0 ? std::string(text, bytes) : text; }

Image image_of(const ar_part& part) { return {part.rgb, part.width, part.height, part.row_bytes}; }

Message message_of(const ar_message& given, std::vector<Image>& images) {
  check_size(given, "ar_message");
  require(given.role, "role");
  if (given.part_count != 0) require(given.parts, "parts");
  Message message{given.role, {}};
  for (std::size_t index = 0; index < given.part_count; ++index) {
    const ar_part& part = given.parts[index];
    check_size(part, "ar_part");
    const bool is_image = part.text == nullptr;
    if (!is_image && part.rgb != nullptr) {
      throw Error(AR_INPUT_INVALID, "a part is a text or an image, not both", {"parts", "text and rgb", "", ""});
    }
    if (is_image) images.push_back(image_of(part));
    message.parts.push_back({is_image, is_image ? "" : text_of(part.text, part.text_bytes)});
  }
  return message;
}

std::vector<Image> images_of(const ar_request& given) {
  if (given.image_count != 0) require(given.images, "images");
  std::vector<Image> images;
  for (std::size_t index = 0; index < given.image_count; ++index) {
    const ar_part& part = given.images[index];
    check_size(part, "ar_part");
    if (part.text != nullptr) throw Error(AR_INPUT_INVALID, "an image has no text", {"images", "a text", "", ""});
    images.push_back(image_of(part));
  }
  return images;
}

// Takes the prompt, and its images.
void take_prompt(const ar_request& given, Request& request) {
  const bool by_messages = given.messages != nullptr, by_text = given.text != nullptr, by_ids = given.ids != nullptr;
  if (by_messages + by_text + by_ids != 1 || (by_messages && given.image_count != 0)) {
    throw Error(AR_INPUT_INVALID, "a request has one prompt",
                {"ar_request", std::to_string(by_messages + by_text + by_ids) + " of messages, text and ids",
                 "messages with their images, or text and images, or ids and images", ""});
  }
  if (by_messages) {
    request.prompt = messages_of(given.messages, given.message_count, request.images);
    return;
  }
  request.images = images_of(given);
  if (by_text) request.prompt = Rendered{text_of(given.text, given.text_bytes)};
  if (by_ids) request.prompt = Ids(given.ids, given.ids + given.id_count);
}

std::vector<std::string> stop_of(const ar_request& given) {
  if (given.stop_count != 0) require(given.stop, "stop");
  std::vector<std::string> texts;
  for (std::size_t index = 0; index < given.stop_count; ++index) {
    require(given.stop[index], "stop");
    texts.emplace_back(given.stop[index]);
  }
  return texts;
}

PieceFn piece_of(const ar_request& given) {
  if (given.piece == nullptr) return {};
  return [piece = given.piece, user = given.user](std::string_view text, int64_t count) {
    return piece(user, std::string(text).c_str(), text.size(), count) == 0;
  };
}

}  // namespace

LoadOptions load_options_of(const ar_load_options* given) {
  LoadOptions options;
  if (given == nullptr) return options;
  const ar_load_options& raw = *given;
  check_size(raw, "ar_load_options");
  if (raw.version != nullptr) options.version = raw.version;
  options.target = target_of(raw);
  options.fallback_fastest = raw.fallback_fastest != 0;
  options.ids_only = raw.ids_only != 0;
  options.engine.threads = raw.threads;
  options.engine.weights = weights_of(raw.weights);
  if (raw.device != nullptr) options.engine.device = raw.device;
  if (raw.provider != nullptr) options.engine.provider = raw.provider;
  if (raw.ort_library != nullptr) options.engine.ort_library = raw.ort_library;
  if (raw.openvino_library != nullptr) options.engine.openvino_library = raw.openvino_library;
  if (raw.log != nullptr) {
    options.engine.log = [log = raw.log, user = raw.user](Level level, const std::string& message) {
      log(user, level == Level::kInfo ? AR_LOG_INFO : AR_LOG_WARNING, message.c_str());
    };
  }
  return options;
}

std::vector<Message> messages_of(const ar_message* messages, std::size_t count, std::vector<Image>& images) {
  if (count != 0) require(messages, "messages");
  std::vector<Message> all;
  for (std::size_t index = 0; index < count; ++index) all.push_back(message_of(messages[index], images));
  return all;
}

Request request_of(const ar_request& raw) {
  check_size(raw, "ar_request");
  Request request;
  take_prompt(raw, request);
  if (raw.keep != 0) request.keep = raw.keep;
  if (raw.max_new_tokens != 0) request.max_new_tokens = raw.max_new_tokens;
  request.sampling = {raw.temperature, raw.top_k, raw.top_p != 0 ? raw.top_p : 1.0,
                      raw.seeded != 0 ? std::optional(raw.seed) : std::nullopt};
  request.stop = stop_of(raw);
  if (raw.cancel != nullptr) request.cancel = raw.cancel->cancellation;
  request.piece = piece_of(raw);
  return request;
}

ar_timing timing_of(const Timing& timing) {
  return {sizeof(ar_timing), timing.preprocess_ms, timing.vision_ms, timing.router_ms,
          timing.prefill_ms, timing.decode_ms,     timing.ttft_ms,   timing.tpot_ms.value_or(-1)};
}

ar_usage usage_of(const Usage& usage) {
  return {sizeof(ar_usage), usage.text_tokens, usage.image_tokens, usage.kept_image_tokens, usage.new_tokens};
}

}  // namespace ar
