// Requests on toy sessions: length, stop tokens, callbacks, cancelling, times.
#include "runtime/request.hpp"

#include <gtest/gtest.h>

#include "fake_sessions.hpp"
#include "world.hpp"

namespace ar {
namespace {

const std::vector<uint8_t> kPixels = test::image(4, 4);

Request request(int64_t max_new_tokens = 4) {
  Request made;
  made.image = {kPixels.data(), 4, 4, 0};
  made.prompt = PromptIds{{1, 2}, {3}};  // the first token is 6, as all tokens are sums modulo 11
  made.max_new_tokens = max_new_tokens;
  return made;
}

Answer ask(const Engine& engine, const Request& asked, const std::function<void()>& check = [] {}) {
  return answer(engine, asked, prepare(engine, asked), check);
}

TEST(Request, AnswersAndSaysWhatThereIsToSay) {
  std::vector<test::Seen> seen;
  const Answer got = ask(test::fake_engine(&seen), request());
  EXPECT_EQ(got.token_ids, (std::vector<int64_t>{6, (6 + 7) % 11, (2 + 8) % 11, (10 + 9) % 11}));
  EXPECT_EQ(seen.size(), 3u);
  EXPECT_EQ(got.prompt_ids, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(got.keep_indices, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(got.kept_layers, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(got.finish, Finish::kLength);
  EXPECT_EQ(got.text, "");
}

TEST(Request, AStopTokenEndsItAndCounts) {
  EngineFacts facts = test::fake_facts();
  facts.model.stop_ids = {9, 10};
  const Engine engine(test::fake_entry(), facts, test::fake_sessions());
  const Answer got = ask(engine, request());
  EXPECT_EQ(got.token_ids, (std::vector<int64_t>{6, 2, 10}));
  EXPECT_EQ(got.finish, Finish::kStop);
}

TEST(Request, OneTokenNeedsNoDecoding) {
  std::vector<test::Seen> seen;
  const Answer got = ask(test::fake_engine(&seen), request(1));
  EXPECT_EQ(got.token_ids, (std::vector<int64_t>{6}));
  EXPECT_TRUE(seen.empty());
  EXPECT_FALSE(got.timing.tpot_ms);
}

TEST(Request, TheDefaultLengthIsTheBundlesLimitWhereThatIsLower) {
  Request asked = request();
  asked.max_new_tokens.reset();
  EXPECT_EQ(prepare(test::fake_engine(), asked).max_new_tokens, 8);
}

TEST(Request, WithoutATokenizerTheCallbackComesOncePerToken) {
  std::vector<int64_t> counts;
  Request asked = request();
  asked.piece = [&](std::string_view text, int64_t count) {
    EXPECT_EQ(text, "");
    counts.push_back(count);
    return true;
  };
  ask(test::fake_engine(), asked);
  EXPECT_EQ(counts, (std::vector<int64_t>{1, 2, 3, 4}));
}

TEST(Request, ACallbackEndsIt) {
  std::vector<test::Seen> seen;
  Request asked = request();
  asked.piece = [](std::string_view, int64_t count) { return count < 2; };
  EXPECT_EQ(test::status_of([&] { ask(test::fake_engine(&seen), asked); }), AR_REQUEST_CANCELLED);
  EXPECT_EQ(seen.size(), 1u);
}

TEST(Request, TheCheckComesBeforeEachStep) {
  int checks = 0;
  ask(test::fake_engine(), request(), [&] { ++checks; });
  EXPECT_EQ(checks, 4 + 3);  // preprocess, vision, router, prefill; three tokens
  for (int last = 0; last < 7; ++last) {
    std::vector<test::Seen> seen;
    int left = last;
    const auto check = [&] {
      if (left-- == 0) throw Error(AR_REQUEST_CANCELLED, "enough");
    };
    EXPECT_EQ(test::status_of([&] { ask(test::fake_engine(&seen), request(), check); }), AR_REQUEST_CANCELLED);
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(std::max(0, last - 4)));
  }
}

TEST(Request, TimesAddUp) {
  const Timing timing = ask(test::fake_engine(), request()).timing;
  const double phases = timing.preprocess_ms + timing.vision_ms + timing.router_ms + timing.prefill_ms;
  EXPECT_GT(phases, 0);
  EXPECT_LE(phases, timing.ttft_ms);
  ASSERT_TRUE(timing.tpot_ms);
  EXPECT_DOUBLE_EQ(*timing.tpot_ms * 3, timing.decode_ms);
}

TEST(Request, ImpossibleOnesAreRefused) {
  const auto refused = [](const std::function<void(Request&)>& change) {
    Request asked = request();
    change(asked);
    return test::status_of([&] { prepare(test::fake_engine(), asked); });
  };
  EXPECT_EQ(refused([](Request&) {}), AR_OK);
  EXPECT_EQ(refused([](Request& r) { r.max_new_tokens = 0; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.max_new_tokens = -4; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.max_new_tokens = 9; }), AR_PROMPT_TOO_LONG);
  EXPECT_EQ(refused([](Request& r) { r.sampling.temperature = -1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.stop = {""}; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.stop = {"."}; }), AR_INPUT_INVALID);  // there is no tokenizer
  EXPECT_EQ(refused([](Request& r) { r.prompt = "what?"; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.prompt = PromptIds{{99}, {1}}; }), AR_INPUT_INVALID);
}

TEST(Request, LogitsThatAreNoNumbersEndIt) {
  Sessions sessions = test::fake_sessions();
  sessions.decode =
      std::make_shared<test::FakeSession>(sessions.decode->inputs(), sessions.decode->outputs(),
                                          test::FakeSession::Compute{}, [](const Tensors&, const Tensors& outputs) {
                                            *static_cast<float*>(const_cast<void*>(outputs.at(t::kLogits)->data())) =
                                                std::numeric_limits<float>::quiet_NaN();
                                          });
  const Engine engine(test::fake_entry(), test::fake_facts(), sessions);
  EXPECT_EQ(test::status_of([&] { ask(engine, request()); }), AR_BACKEND_ERROR);
}

}  // namespace
}  // namespace ar
