#include "c_api_double.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

using ar_double::world;

struct ar_runtime {
  ar_load_options options;
};
struct ar_answer {};
struct ar_bundle {};
struct ar_prompt {};
struct ar_cancellation {
  bool cancelled = false;
};

namespace {

const std::int64_t kIds[] = {11, 12, 13, 14};

template <class T>
T* made(const char* kind, T value = {}) {
  ++world().alive[kind];
  return new T(std::move(value));
}
template <class T>
void freed(const char* kind, T* handle) {
  if (!handle) return;
  --world().alive[kind];
  delete handle;
}
ar_error* failure() {
  ar_error* error = std::exchange(world().fail, nullptr);
  if (error) ++world().alive["error"];
  return error;
}
const std::int64_t* ids(std::size_t first, std::size_t last, std::size_t* count) {
  *count = last - first;
  return kIds + first;
}
std::string or_empty(const char* text) { return text ? text : "(null)"; }

std::vector<ar_double::Part> parts_of(const ar_part* parts, size_t count) {
  std::vector<ar_double::Part> all;
  for (size_t index = 0; index < count; ++index) {
    const ar_part& each = parts[index];
    all.push_back({each, each.text ? std::string(each.text, each.text_bytes) : "(null)"});
  }
  return all;
}
std::vector<ar_double::Message> messages_of(const ar_message* messages, size_t count) {
  std::vector<ar_double::Message> all;
  for (size_t index = 0; index < count; ++index) {
    const ar_message& each = messages[index];
    all.push_back({each.size, each.role, parts_of(each.parts, each.part_count)});
  }
  return all;
}
ar_double::Asked asked_of(const ar_request& raw) {
  return {raw,
          messages_of(raw.messages, raw.message_count),
          raw.text ? std::string(raw.text, raw.text_bytes) : "(null)",
          {raw.ids, raw.ids + raw.id_count},
          parts_of(raw.images, raw.image_count),
          {raw.stop, raw.stop + raw.stop_count}};
}

}  // namespace

ar_double::World& ar_double::world() {
  static World it;
  return it;
}
void ar_double::reset() { world() = {}; }

extern "C" {

const char* ar_version(void) { return "0.1.0"; }

ar_status ar_error_status(const ar_error* error) { return error ? error->status : AR_OK; }
const char* ar_error_name(const ar_error* error) { return error->name.c_str(); }
const char* ar_error_message(const ar_error* error) { return error->message.c_str(); }
void ar_error_free(ar_error* error) { freed("error", error); }

ar_error* ar_runtime_load(const char* bundle, const ar_load_options* options, ar_runtime** runtime) {
  world().loaded = {bundle, *options, or_empty(options->version), or_empty(options->device),
                    or_empty(options->ort_library), or_empty(options->openvino_library)};
  if (world().on_load) world().on_load(*options);
  if (ar_error* error = failure()) return error;
  *runtime = made<ar_runtime>("runtime", {*options});
  return nullptr;
}
void ar_runtime_close(ar_runtime* runtime, int cancel) {
  world().closed_with = cancel;
  if (world().on_close) world().on_close(runtime->options);
}
void ar_runtime_free(ar_runtime* runtime) {
  if (runtime && world().on_free) world().on_free(runtime->options);
  freed("runtime", runtime);
}
const char* ar_runtime_version(const ar_runtime*) { return "par-lite"; }
const char* ar_runtime_entry(const ar_runtime*) { return "{}"; }
const char* ar_runtime_manifest(const ar_runtime*) { return "{\"schema\":1}"; }

ar_error* ar_bundle_open(const char* path, ar_bundle** bundle) {
  world().loaded.bundle = path;
  if (ar_error* error = failure()) return error;
  *bundle = made<ar_bundle>("bundle");
  return nullptr;
}
const char* ar_bundle_manifest(const ar_bundle*) { return "{\"schema\":1,\"files\":{}}"; }
void ar_bundle_free(ar_bundle* bundle) { freed("bundle", bundle); }

ar_error* ar_cancellation_new(ar_cancellation** cancellation) {
  if (ar_error* error = failure()) return error;
  *cancellation = made<ar_cancellation>("cancellation");
  return nullptr;
}
void ar_cancellation_cancel(ar_cancellation* cancellation) { cancellation->cancelled = true; }
void ar_cancellation_free(ar_cancellation* cancellation) { freed("cancellation", cancellation); }

ar_error* ar_generate(ar_runtime*, const ar_request* request, ar_answer** answer) {
  world().asked.push_back(asked_of(*request));
  const bool cancelled =
      (request->cancel && request->cancel->cancelled) || (world().on_generate && world().on_generate(*request) != 0);
  if (cancelled) world().fail = new ar_error{AR_REQUEST_CANCELLED, "RequestCancelled", "the request was cancelled"};
  if (ar_error* error = failure()) return error;
  *answer = made<ar_answer>("answer");
  return nullptr;
}
ar_error* ar_generate_batch(ar_runtime* runtime, const ar_request* requests, size_t count, ar_answer** answers,
                            ar_error** errors) {
  if (ar_error* error = failure()) return error;
  for (size_t index = 0; index < count; ++index) errors[index] = ar_generate(runtime, requests + index, answers + index);
  return nullptr;
}
const char* ar_answer_text(const ar_answer*, size_t* bytes) {
  if (bytes) *bytes = 5;
  return "a\0red";
}
const int64_t* ar_answer_token_ids(const ar_answer*, size_t* count) { return ids(0, 4, count); }
const int64_t* ar_answer_prompt_ids(const ar_answer*, size_t* count) { return ids(1, 4, count); }
const int64_t* ar_answer_keep_indices(const ar_answer*, size_t* count) { return ids(2, 4, count); }
const int64_t* ar_answer_kept_layers(const ar_answer*, size_t* count) { return ids(0, 0, count); }
ar_finish ar_answer_finish(const ar_answer*) { return AR_FINISH_LENGTH; }
void ar_answer_timing(const ar_answer*, ar_timing* timing) {
  const ar_timing filled = {timing->size, 1, 2, 3, 4, 5, 6, -1};
  std::memcpy(timing, &filled, std::min(timing->size, sizeof filled));
}
void ar_answer_usage(const ar_answer*, ar_usage* usage) { *usage = {usage->size, 31, 32, 33, 34}; }
void ar_answer_free(ar_answer* answer) { freed("answer", answer); }

ar_error* ar_prompt_encode(ar_runtime*, const ar_message* messages, size_t count, ar_prompt** prompt) {
  world().asked.push_back({});
  world().asked.back().messages = messages_of(messages, count);
  if (ar_error* error = failure()) return error;
  *prompt = made<ar_prompt>("prompt");
  return nullptr;
}
const int64_t* ar_prompt_ids(const ar_prompt*, size_t* count) { return ids(1, 4, count); }
void ar_prompt_free(ar_prompt* prompt) { freed("prompt", prompt); }

}  // extern "C"
