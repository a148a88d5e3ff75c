// The C interface: handles around the runtime; nothing is decided here.
#include "allrounder/c_api.h"

#include "c_api/handles.hpp"
#include "contract/json.hpp"
#include "contract/utf8.hpp"

namespace {

#define AR_TEXT(value) AR_TEXT_(value)
#define AR_TEXT_(value) #value
constexpr const char* kVersion = AR_TEXT(AR_VERSION_MAJOR) "." AR_TEXT(AR_VERSION_MINOR) "." AR_TEXT(AR_VERSION_PATCH);

const int64_t* row(const std::vector<int64_t>* ids, size_t* count) {
  if (count != nullptr) *count = ids != nullptr ? ids->size() : 0;
  return ids != nullptr ? ids->data() : nullptr;
}

template <class Handle, class Field>
const int64_t* row_of(const Handle* handle, Field field, size_t* count) {
  return row(handle != nullptr ? &field(*handle) : nullptr, count);
}

}  // namespace

namespace ar {

ar_error* no_memory() noexcept {
  static ar_error error{AR_INTERNAL, "no memory"};  // short enough to need none itself
  return &error;
}

ar_error* new_error(ar_status status, const char* message) noexcept {
  try {
    return new ar_error{status, utf8::lossy(message)};  // a path in it may be anything
  } catch (...) {
    return no_memory();
  }
}

}  // namespace ar

const char* ar_version(void) { return kVersion; }

ar_status ar_error_status(const ar_error* error) { return error != nullptr ? error->status : AR_OK; }
const char* ar_error_name(const ar_error* error) { return ar::error_name(ar_error_status(error)); }
const char* ar_error_message(const ar_error* error) { return error != nullptr ? error->message.c_str() : ""; }
void ar_error_free(ar_error* error) {
  if (error != ar::no_memory()) delete error;
}

ar_error* ar_bundle_open(const char* path, ar_bundle** bundle) {
  return ar::guard([&] {
    ar::require(path, "path");
    ar::require(bundle, "bundle");
    *bundle = new ar_bundle{ar::open_bundle(path)};
  });
}
const char* ar_bundle_manifest(const ar_bundle* bundle) {
  return bundle != nullptr ? bundle->opened.json.c_str() : nullptr;
}
void ar_bundle_free(ar_bundle* bundle) { delete bundle; }

ar_error* ar_runtime_load(const char* bundle, const ar_load_options* options, ar_runtime** runtime) {
  return ar::guard([&] {
    ar::require(bundle, "bundle");
    ar::require(runtime, "runtime");
    auto loaded = ar::Runtime::load(bundle, ar::load_options_of(options));
    std::string entry = ar::json_element(loaded->manifest(), "entries", loaded->entry().index);
    *runtime = new ar_runtime{std::move(loaded), std::move(entry)};
  });
}
void ar_runtime_close(ar_runtime* runtime, int cancel) {
  if (runtime == nullptr) return;
  // Only waits; should the system's locks fail, there is nobody to tell.
  ar_error_free(ar::guard([&] { runtime->runtime->close(cancel != 0); }));
}
void ar_runtime_free(ar_runtime* runtime) {
  ar_runtime_close(runtime, 1);
  if (runtime != nullptr && !runtime->runtime->inherited()) delete runtime;  // else its engine's threads are not here
}
const char* ar_runtime_version(const ar_runtime* runtime) {
  return runtime != nullptr ? runtime->runtime->entry().pruning.version.c_str() : nullptr;
}
const char* ar_runtime_entry(const ar_runtime* runtime) {
  return runtime != nullptr ? runtime->entry.c_str() : nullptr;
}
const char* ar_runtime_manifest(const ar_runtime* runtime) {
  return runtime != nullptr ? runtime->runtime->manifest().c_str() : nullptr;
}

ar_error* ar_cancellation_new(ar_cancellation** cancellation) {
  return ar::guard([&] {
    ar::require(cancellation, "cancellation");
    *cancellation = new ar_cancellation;
  });
}
void ar_cancellation_cancel(ar_cancellation* cancellation) {
  if (cancellation != nullptr) cancellation->cancellation.cancel();
}
void ar_cancellation_free(ar_cancellation* cancellation) { delete cancellation; }

ar_error* ar_generate(ar_runtime* runtime, const ar_request* request, ar_answer** answer) {
  return ar::guard([&] {
    ar::require(runtime, "runtime");
    ar::require(request, "request");
    ar::require(answer, "answer");
    *answer = new ar_answer{runtime->runtime->generate(ar::request_of(*request))};
  });
}

ar_error* ar_generate_batch(ar_runtime* runtime, const ar_request* requests, size_t count, ar_answer** answers,
                            ar_error** errors) {
  return ar::guard([&] {
    ar::require(runtime, "runtime");
    if (count == 0) return;
    ar::require(requests, "requests");
    ar::require(answers, "answers");
    ar::require(errors, "errors");
    std::vector<ar::Request> all;
    for (size_t index = 0; index < count; ++index) all.push_back(ar::request_of(requests[index]));
    std::vector<ar::Outcome> outcomes = runtime->runtime->generate_all(all);
    for (size_t index = 0; index < count; ++index) {  // from here on nothing fails that is not one request's own
      answers[index] = nullptr;
      errors[index] = ar::guard([&, &it = outcomes[index]] {
        if (it.error) std::rethrow_exception(it.error);
        answers[index] = new ar_answer{*std::move(it.answer)};
      });
    }
  });
}

const char* ar_answer_text(const ar_answer* answer, size_t* bytes) {
  if (bytes != nullptr) *bytes = answer != nullptr ? answer->answer.text.size() : 0;
  return answer != nullptr ? answer->answer.text.c_str() : nullptr;
}
const int64_t* ar_answer_token_ids(const ar_answer* answer, size_t* count) {
  return row_of(answer, [](const ar_answer& it) -> auto& { return it.answer.token_ids; }, count);
}
const int64_t* ar_answer_prompt_ids(const ar_answer* answer, size_t* count) {
  return row_of(answer, [](const ar_answer& it) -> auto& { return it.answer.prompt_ids; }, count);
}
const int64_t* ar_answer_keep_indices(const ar_answer* answer, size_t* count) {
  return row_of(answer, [](const ar_answer& it) -> auto& { return it.answer.keep_indices; }, count);
}
const int64_t* ar_answer_kept_layers(const ar_answer* answer, size_t* count) {
  return row_of(answer, [](const ar_answer& it) -> auto& { return it.answer.kept_layers; }, count);
}
ar_finish ar_answer_finish(const ar_answer* answer) {
  return answer != nullptr && answer->answer.finish == ar::Finish::kLength ? AR_FINISH_LENGTH : AR_FINISH_STOP;
}
void ar_answer_timing(const ar_answer* answer, ar_timing* timing) {
  if (answer == nullptr || timing == nullptr || timing->size != sizeof *timing) return;
  *timing = ar::timing_of(answer->answer.timing);
}
void ar_answer_usage(const ar_answer* answer, ar_usage* usage) {
  if (answer == nullptr || usage == nullptr || usage->size != sizeof *usage) return;
  *usage = ar::usage_of(answer->answer.usage);
}
void ar_answer_free(ar_answer* answer) { delete answer; }

ar_error* ar_prompt_encode(ar_runtime* runtime, const ar_message* messages, size_t count, ar_prompt** prompt) {
  return ar::guard([&] {
    ar::require(runtime, "runtime");
    ar::require(prompt, "prompt");
    std::vector<ar::Image> unread;
    *prompt = new ar_prompt{runtime->runtime->encode(ar::messages_of(messages, count, unread))};
  });
}
const int64_t* ar_prompt_ids(const ar_prompt* prompt, size_t* count) {
  return row_of(prompt, [](const ar_prompt& it) -> auto& { return it.ids; }, count);
}
void ar_prompt_free(ar_prompt* prompt) { delete prompt; }
