// The C interface used wrongly: NULLs, impossible values, structs of other sizes; without a bundle.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "allrounder/c_api.h"

namespace {

// Takes an error's status, and frees it.
ar_status taken(ar_error* error, std::string* message = nullptr) {
  const ar_status status = ar_error_status(error);
  if (message != nullptr) *message = ar_error_message(error);
  ar_error_free(error);
  return status;
}

ar_status loading(const ar_load_options& options, std::string* message = nullptr) {
  ar_runtime* runtime = nullptr;
  const ar_status status = taken(ar_runtime_load("/nowhere", &options, &runtime), message);
  EXPECT_EQ(runtime, nullptr);
  return status;
}

ar_load_options options() {
  ar_load_options made{};
  made.size = sizeof made;
  return made;
}

TEST(Misuse, TheVersionIsTheHeaders) {
  const std::string wanted = std::to_string(AR_VERSION_MAJOR) + "." + std::to_string(AR_VERSION_MINOR) + "." +
                             std::to_string(AR_VERSION_PATCH);
  EXPECT_EQ(ar_version(), wanted);
}

TEST(Misuse, AMessageIsUtf8WhateverThePath) {
  ar_runtime* runtime = nullptr;
  std::string message;
  EXPECT_EQ(taken(ar_runtime_load("/nowhere/\xff", nullptr, &runtime), &message), AR_BUNDLE_ERROR);
  EXPECT_NE(message.find("/nowhere/\xEF\xBF\xBD"), std::string::npos) << message;
}

TEST(Misuse, TensorRtNeedsAGpu) {
  ar_load_options given = options();
  given.provider = "tensorrt";
  std::string message;
  EXPECT_EQ(loading(given, &message), AR_INPUT_INVALID);
  EXPECT_NE(message.find("give device 'cuda'"), std::string::npos) << message;
  given.device = "cuda";
  EXPECT_EQ(loading(given), AR_BUNDLE_ERROR);
}

TEST(Misuse, NullArgumentsAreRefused) {
  ar_runtime* runtime = nullptr;
  ar_answer* answer = nullptr;
  ar_prompt* prompt = nullptr;
  ar_bundle* bundle = nullptr;
  const ar_request request{};
  EXPECT_EQ(taken(ar_runtime_load(nullptr, nullptr, &runtime)), AR_INPUT_INVALID);
  EXPECT_EQ(taken(ar_runtime_load("/nowhere", nullptr, nullptr)), AR_INPUT_INVALID);
  EXPECT_EQ(taken(ar_bundle_open(nullptr, &bundle)), AR_INPUT_INVALID);
  EXPECT_EQ(taken(ar_bundle_open("/nowhere", nullptr)), AR_INPUT_INVALID);
  EXPECT_EQ(taken(ar_generate(nullptr, &request, &answer)), AR_INPUT_INVALID);
  EXPECT_EQ(taken(ar_generate_batch(nullptr, &request, 1, &answer, nullptr)), AR_INPUT_INVALID);
  EXPECT_EQ(taken(ar_prompt_encode(nullptr, nullptr, 0, &prompt)), AR_INPUT_INVALID);
  EXPECT_EQ(taken(ar_cancellation_new(nullptr)), AR_INPUT_INVALID);
}

TEST(Misuse, NullHandlesHaveNothing) {
  size_t count = 7;
  EXPECT_EQ(ar_error_status(nullptr), AR_OK);
  EXPECT_STREQ(ar_error_name(nullptr), "");
  EXPECT_STREQ(ar_error_message(nullptr), "");
  EXPECT_EQ(ar_runtime_version(nullptr), nullptr);
  EXPECT_EQ(ar_runtime_entry(nullptr), nullptr);
  EXPECT_EQ(ar_runtime_manifest(nullptr), nullptr);
  EXPECT_EQ(ar_bundle_manifest(nullptr), nullptr);
  EXPECT_EQ(ar_answer_text(nullptr, &count), nullptr);
  EXPECT_EQ(count, 0u);
  for (const auto ids : {ar_answer_token_ids, ar_answer_prompt_ids, ar_answer_keep_indices, ar_answer_kept_layers}) {
    count = 7;
    EXPECT_EQ(ids(nullptr, &count), nullptr);
    EXPECT_EQ(count, 0u);
    EXPECT_EQ(ids(nullptr, nullptr), nullptr);
  }
  EXPECT_EQ(ar_prompt_ids(nullptr, nullptr), nullptr);
  EXPECT_EQ(ar_prompt_ids(nullptr, &count), nullptr);
  ar_answer_timing(nullptr, nullptr);
  ar_answer_usage(nullptr, nullptr);
}

TEST(Misuse, FreeingNothingDoesNothing) {
  ar_error_free(nullptr);
  ar_runtime_close(nullptr, 1);
  ar_runtime_free(nullptr);
  ar_bundle_free(nullptr);
  ar_answer_free(nullptr);
  ar_prompt_free(nullptr);
  ar_cancellation_cancel(nullptr);
  ar_cancellation_free(nullptr);
}

TEST(Misuse, WhatIsNotThereIsNamed) {
  std::string message;
  ar_bundle* bundle = nullptr;
  EXPECT_EQ(loading(options(), &message), AR_BUNDLE_ERROR);
  EXPECT_NE(message.find("/nowhere"), std::string::npos);
  EXPECT_EQ(taken(ar_bundle_open("/nowhere", &bundle)), AR_BUNDLE_ERROR);
  EXPECT_EQ(bundle, nullptr);
}

TEST(Misuse, StructsOfOtherSizesAreRefused) {
  ar_load_options bad = options();
  for (const size_t size : {size_t{0}, sizeof(size_t), sizeof bad - 1, sizeof bad + 8}) {
    bad.size = size;
    std::string message;
    EXPECT_EQ(loading(bad, &message), AR_INPUT_INVALID) << size;
    EXPECT_NE(message.find("ar_load_options.size"), std::string::npos) << message;
  }
}

TEST(Misuse, ImpossibleLoadOptionsAreRefused) {
  const auto refused = [](void (*change)(ar_load_options&)) {
    ar_load_options bad = options();
    change(bad);
    return loading(bad);
  };
  EXPECT_EQ(refused([](ar_load_options& o) { o.threads = -1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.device = "tpu"; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.device = "cuda", o.provider = "rocm"; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.ttft_ms = 4, o.weights = AR_WEIGHTS_SHARED; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.percentile = 90; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.ttft_ms = -1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.ttft_ms = std::numeric_limits<double>::quiet_NaN(); }),
            AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.tpot_ms = 4, o.percentile = 51; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.tpot_ms = 4, o.version = "full"; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_load_options& o) { o.fallback_fastest = 1; }), AR_INPUT_INVALID);
  const int strange = 7;
  ar_load_options bad = options();
  std::memcpy(&bad.weights, &strange, sizeof strange);
  EXPECT_EQ(loading(bad), AR_INPUT_INVALID);
}

}  // namespace
