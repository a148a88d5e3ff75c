// The C interface on a real bundle, as a C program uses it.
#include "allrounder/c_api.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <deque>
#include <future>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "runtime/world.hpp"

namespace {

const std::vector<uint8_t> kPixels = ar::test::image(9, 6);

ar_status taken(ar_error* error) {
  const ar_status status = ar_error_status(error);
  ar_error_free(error);
  return status;
}

ar_part text(const char* words, size_t bytes = 0) { return {sizeof(ar_part), words, bytes, nullptr, 0, 0, 0}; }
ar_part image(int64_t width = 9, int64_t row_bytes = 0, const uint8_t* rgb = kPixels.data()) {
  return {sizeof(ar_part), nullptr, 0, rgb, width, 6, row_bytes};
}

// A conversation of one turn, which lives as long as the program.
const ar_message* turn(const ar_part& first, const ar_part& second, const char* role = "user") {
  static std::deque<std::array<ar_part, 2>> parts;
  static std::deque<ar_message> messages;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  parts.push_back({first, second});
  return &messages.emplace_back(ar_message{sizeof(ar_message), role, parts.back().data(), 2});
}

ar_request request() {
  static const ar_message* const question = turn(image(), text("what is it?"));
  ar_request made{};
  made.size = sizeof made;
  made.messages = question;
  made.message_count = 1;
  made.max_new_tokens = 8;
  made.temperature = 8;
  made.seeded = 1;
  made.seed = 3;
  return made;
}

std::vector<int64_t> ids(const int64_t* (*get)(const ar_answer*, size_t*), const ar_answer* answer) {
  size_t count = 0;
  const int64_t* first = get(answer, &count);
  return {first, first + count};
}

class CApi : public ar::test::OnBundle {
 protected:
  void SetUp() override {
    OnBundle::SetUp();
    if (IsSkipped()) return;
    ar_load_options options{};
    options.size = sizeof options;
    options.version = "t2-l2";
    options.threads = 1;
    options.log = [](void* user, ar_level, const char* message) { *static_cast<std::string*>(user) += message; };
    options.user = &log_;
    ASSERT_EQ(taken(ar_runtime_load(ar::test::bundle_path().c_str(), &options, &runtime_)), AR_OK);
  }
  void TearDown() override {
    ar_runtime_free(runtime_);
    OnBundle::TearDown();
  }
  // Asks, and takes the token ids.
  std::vector<int64_t> asked(const ar_request& made) {
    ar_answer* answer = nullptr;
    EXPECT_EQ(taken(ar_generate(runtime_, &made, &answer)), AR_OK);
    std::vector<int64_t> tokens = ids(ar_answer_token_ids, answer);
    ar_answer_free(answer);
    return tokens;
  }
  ar_status refused(void (*change)(ar_request&)) {
    ar_request bad = request();
    change(bad);
    ar_answer* answer = nullptr;
    const ar_status status = taken(ar_generate(runtime_, &bad, &answer));
    EXPECT_EQ(answer, nullptr);
    return status;
  }
  ar_runtime* runtime_ = nullptr;
  std::string log_;
};

TEST_F(CApi, AForkedProcessIsRefusedAndEnds) {
  const std::vector<int64_t> before = asked(request());
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);  // ends a child that would hang
    ar_prompt* prompt = nullptr;
    const bool told = refused([](ar_request&) {}) == AR_RUNTIME_CLOSED &&
                      taken(ar_prompt_encode(runtime_, request().messages, 1, &prompt)) == AR_RUNTIME_CLOSED;
    ar_runtime_close(runtime_, 0);
    ar_runtime_free(runtime_);
    _exit(told ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(asked(request()), before);
}

TEST_F(CApi, SaysWhatItLoaded) {
  EXPECT_STREQ(ar_runtime_version(runtime_), "t2-l2");
  EXPECT_EQ(std::string(ar_runtime_entry(runtime_)).rfind(R"({"pruning":{"version":"t2-l2",)", 0), 0u);
  EXPECT_EQ(ar_runtime_manifest(runtime_), ar::test::read_file(ar::test::manifest_path(ar::test::bundle_path())));
  EXPECT_NE(log_.find("loading t2-l2"), std::string::npos);
}

TEST_F(CApi, AnAnswerSaysAllThereIs) {
  ar_answer* answer = nullptr;
  const ar_request made = request();
  ASSERT_EQ(taken(ar_generate(runtime_, &made, &answer)), AR_OK);
  ar_runtime_free(std::exchange(runtime_, nullptr));  // an answer outlives its runtime
  EXPECT_EQ(ids(ar_answer_token_ids, answer).size(), 8u);
  EXPECT_EQ(ids(ar_answer_keep_indices, answer).size(), 2u);
  EXPECT_EQ(ids(ar_answer_kept_layers, answer), (std::vector<int64_t>{0, 2}));
  EXPECT_GT(ids(ar_answer_prompt_ids, answer).size(), 10u);
  EXPECT_EQ(ar_answer_finish(answer), AR_FINISH_LENGTH);
  size_t bytes = 0;
  const char* text = ar_answer_text(answer, &bytes);
  EXPECT_EQ(text[bytes], '\0');
  ar_timing timing{};
  timing.size = sizeof timing;
  ar_answer_timing(answer, &timing);
  EXPECT_GT(timing.ttft_ms, 0);
  EXPECT_GT(timing.tpot_ms, 0);
  ar_timing other{};
  for (const size_t size : {size_t{0}, sizeof other - 1, sizeof other + 8}) {
    other.size = size;
    ar_answer_timing(answer, &other);
    EXPECT_EQ(other.ttft_ms, 0) << size;
  }
  ar_answer_free(answer);
}

TEST_F(CApi, NoFurtherTokenHasNoTime) {
  ar_request made = request();
  made.max_new_tokens = 1;
  ar_answer* answer = nullptr;
  ASSERT_EQ(taken(ar_generate(runtime_, &made, &answer)), AR_OK);
  ar_timing timing{};
  timing.size = sizeof timing;
  ar_answer_timing(answer, &timing);
  EXPECT_LT(timing.tpot_ms, 0);
  ar_answer_free(answer);
}

TEST_F(CApi, TextsHaveALengthOrAnEnd) {
  ar_request made = request();
  made.messages = turn(image(), text("what is it? and nothing else", 11));
  EXPECT_EQ(asked(made), asked(request()));
}

TEST_F(CApi, TextAndIdsAnswerAsTheirMessages) {
  const ar_part own = image();
  ar_request made = request();
  made.messages = nullptr;
  made.images = &own;
  made.image_count = 1;
  ar_prompt* prompt = nullptr;
  ASSERT_EQ(taken(ar_prompt_encode(runtime_, request().messages, 1, &prompt)), AR_OK);
  made.ids = ar_prompt_ids(prompt, &made.id_count);
  EXPECT_EQ(asked(made), asked(request()));
  made.ids = nullptr;
  made.text = "USER: <image>\nwhat is it? ASSISTANT:, and nothing else";
  made.text_bytes = 36;
  EXPECT_EQ(asked(made), asked(request()));
  ar_prompt_free(prompt);
}

TEST_F(CApi, ARequestMayKeepMore) {
  ar_request made = request();
  made.keep = 0.75;
  ar_answer* answer = nullptr;
  ASSERT_EQ(taken(ar_generate(runtime_, &made, &answer)), AR_OK);
  EXPECT_EQ(ids(ar_answer_keep_indices, answer).size(), 3u);
  ar_usage usage{};
  usage.size = sizeof usage;
  ar_answer_usage(answer, &usage);
  EXPECT_EQ(usage.image_tokens, 4);
  EXPECT_EQ(usage.kept_image_tokens, 3);
  EXPECT_EQ(usage.new_tokens, 8);
  EXPECT_GT(usage.text_tokens, 10);
  ar_answer_free(answer);
}

TEST_F(CApi, ImpossibleRequestsAreRefused) {
  EXPECT_EQ(refused([](ar_request& r) { r.size = 8; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.messages = nullptr; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.message_count = 0; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.text = "and a text"; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.image_count = 1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.stop_count = 1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.max_new_tokens = -1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.max_new_tokens = 1000; }), AR_PROMPT_TOO_LONG);
  EXPECT_EQ(refused([](ar_request& r) { r.temperature = -1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.top_p = 1.5; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.top_k = -1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](ar_request& r) { r.keep = -1; }), AR_INVALID_BUDGET);
  EXPECT_EQ(refused([](ar_request& r) {
              static const char* texts[] = {"fine", nullptr};
              r.stop = texts, r.stop_count = 2;
            }),
            AR_INPUT_INVALID);
}

TEST_F(CApi, ImpossibleMessagesAreRefused) {
  const auto asking = [&](const ar_message* message) {
    ar_request bad = request();
    bad.messages = message;
    ar_answer* answer = nullptr;
    const ar_status status = taken(ar_generate(runtime_, &bad, &answer));
    ar_answer_free(answer);
    return status;
  };
  const ar_part fine = text("what?");
  ar_part sizeless = fine, both = image();
  sizeless.size = 0;
  both.text = "a text";
  EXPECT_EQ(asking(turn(image(), fine)), AR_OK);
  EXPECT_EQ(asking(turn(image(), text("what?"), nullptr)), AR_INPUT_INVALID);
  EXPECT_EQ(asking(turn(image(), fine, "robot\n")), AR_INPUT_INVALID);
  EXPECT_EQ(asking(turn(fine, text("\xff\xfe"))), AR_INPUT_INVALID);
  EXPECT_EQ(asking(turn(text(""), text(" "))), AR_INPUT_INVALID);
  EXPECT_EQ(asking(turn(fine, sizeless)), AR_INPUT_INVALID);
  EXPECT_EQ(asking(turn(fine, both)), AR_INPUT_INVALID);
  EXPECT_EQ(asking(turn(image(9, 0, nullptr), fine)), AR_IMAGE_INVALID);
  EXPECT_EQ(asking(turn(image(0), fine)), AR_IMAGE_INVALID);
  EXPECT_EQ(asking(turn(image(9, 26), fine)), AR_IMAGE_INVALID);
}

// Several requests at once, and what became of them.
struct Several {
  explicit Several(std::vector<ar_request> given) : requests(std::move(given)), answers(size()), errors(size()) {}
  Several(const Several&) = delete;
  Several& operator=(const Several&) = delete;
  ~Several() {
    for (ar_answer* answer : answers) ar_answer_free(answer);
    for (ar_error* error : errors) ar_error_free(error);
  }
  size_t size() const { return requests.size(); }
  ar_error* run(ar_runtime* runtime) {
    return ar_generate_batch(runtime, requests.data(), size(), answers.data(), errors.data());
  }

  std::vector<ar_request> requests;
  std::vector<ar_answer*> answers;
  std::vector<ar_error*> errors;
};

TEST_F(CApi, TogetherIsAsAloneAndAFailureIsItsOwn) {
  ar_request longer = request(), bad = request();
  longer.messages = turn(text("no image, but a longer question"), text("?"));
  longer.max_new_tokens = 12;
  bad.max_new_tokens = 1000;
  Several several({request(), bad, longer});
  ASSERT_EQ(taken(several.run(runtime_)), AR_OK);
  EXPECT_EQ(several.answers[1], nullptr);
  EXPECT_EQ(ar_error_status(several.errors[1]), AR_PROMPT_TOO_LONG);
  for (const size_t index : {0u, 2u}) {
    EXPECT_EQ(several.errors[index], nullptr);
    EXPECT_EQ(ids(ar_answer_token_ids, several.answers[index]), asked(several.requests[index]));
  }
}

TEST_F(CApi, ImpossibleBatchesAreRefusedAsAWhole) {
  Several many(std::vector<ar_request>(99, request()));
  EXPECT_EQ(taken(many.run(runtime_)), AR_INPUT_INVALID);
  Several nothing({request(), {}});  // without a size
  EXPECT_EQ(taken(nothing.run(runtime_)), AR_INPUT_INVALID);
  EXPECT_EQ(nothing.answers[0], nullptr);
  EXPECT_EQ(nothing.errors[0], nullptr);
  EXPECT_EQ(taken(ar_generate_batch(runtime_, nullptr, 0, nullptr, nullptr)), AR_OK);
  EXPECT_EQ(taken(ar_generate_batch(runtime_, nullptr, 1, nullptr, nullptr)), AR_INPUT_INVALID);
}

TEST_F(CApi, ACallbackStreamsAndEnds) {
  struct Heard {
    std::string text;
    int64_t most;
  } all{"", 100}, some{"", 3};
  const ar_piece_fn piece = [](void* user, const char* text, size_t bytes, int64_t count) {
    auto* heard = static_cast<Heard*>(user);
    heard->text.append(text, bytes);
    return count < heard->most ? 0 : 1;
  };
  ar_request made = request();
  made.piece = piece;
  made.user = &all;
  ar_answer* answer = nullptr;
  ASSERT_EQ(taken(ar_generate(runtime_, &made, &answer)), AR_OK);
  size_t bytes = 0;
  const char* whole = ar_answer_text(answer, &bytes);
  EXPECT_EQ(all.text, std::string(whole, bytes));
  ar_answer_free(answer);
  made.user = &some;
  EXPECT_EQ(taken(ar_generate(runtime_, &made, &answer)), AR_REQUEST_CANCELLED);
}

TEST_F(CApi, WhatACallbackThrowsDoesNotEscape) {
  ar_request made = request();
  made.piece = [](void*, const char*, size_t, int64_t) -> int { throw std::runtime_error("from a callback"); };
  ar_answer* answer = nullptr;
  ar_error* error = ar_generate(runtime_, &made, &answer);
  EXPECT_STREQ(ar_error_message(error), "from a callback");
  EXPECT_EQ(taken(error), AR_INTERNAL);
}

TEST_F(CApi, ACancellationMayBeFreedWhileItsRequestsRun) {
  ar_cancellation* cancel = nullptr;
  ASSERT_EQ(taken(ar_cancellation_new(&cancel)), AR_OK);
  struct Shared {
    std::promise<void> started, freed;
    bool first = true;
  } shared;
  ar_request made = request();
  made.cancel = cancel;
  made.user = &shared;
  made.piece = [](void* user, const char*, size_t, int64_t) {
    auto* mine = static_cast<Shared*>(user);
    if (std::exchange(mine->first, false)) {
      mine->started.set_value();
      mine->freed.get_future().wait();
    }
    return 0;
  };
  auto status = std::async(std::launch::async, [&] {
    ar_answer* answer = nullptr;
    return taken(ar_generate(runtime_, &made, &answer));
  });
  shared.started.get_future().wait();
  ar_cancellation_cancel(cancel);
  ar_cancellation_free(cancel);
  shared.freed.set_value();
  EXPECT_EQ(status.get(), AR_REQUEST_CANCELLED);
}

TEST_F(CApi, EightThreadsAtOnce) {
  const std::vector<int64_t> wanted = asked(request());
  std::vector<std::thread> threads;
  std::atomic<int> equal{0};
  for (int thread = 0; thread < 8; ++thread) {
    threads.emplace_back([&] {
      for (int number = 0; number < 20; ++number) equal += asked(request()) == wanted ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, 160);
}

TEST_F(CApi, AClosedRuntimeRefuses) {
  ar_runtime_close(runtime_, 1);
  ar_runtime_close(runtime_, 0);
  EXPECT_EQ(refused([](ar_request&) {}), AR_RUNTIME_CLOSED);
  ar_prompt* prompt = nullptr;
  EXPECT_EQ(taken(ar_prompt_encode(runtime_, request().messages, 1, &prompt)), AR_RUNTIME_CLOSED);
  EXPECT_STREQ(ar_runtime_version(runtime_), "t2-l2");
}

TEST_F(CApi, ABundleAlone) {
  ar_bundle* bundle = nullptr;
  ASSERT_EQ(taken(ar_bundle_open(ar::test::bundle_path().c_str(), &bundle)), AR_OK);
  EXPECT_STREQ(ar_bundle_manifest(bundle), ar_runtime_manifest(runtime_));
  ar_bundle_free(bundle);
}

}  // namespace
