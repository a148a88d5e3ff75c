// Requests on toy sessions: length, stop tokens, callbacks, cancelling, times; alone and together.
#include "runtime/request.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "fake_sessions.hpp"
#include "world.hpp"

namespace ar {
namespace {

const std::vector<uint8_t> kPixels = test::image(4, 4);
const Check kOpen = [] {};

// The prompt begins with 1, and its other ids are 2 and 3: the tokens are 6, 6+7+1, 3+8+1, 1+9+1, ... modulo 11.
Request request(int64_t max_new_tokens = 4) {
  Request made;
  made.images = {{kPixels.data(), 4, 4, 0}};
  made.prompt = Ids{1, 2, test::kPlaceholder, 3};
  made.max_new_tokens = max_new_tokens;
  return made;
}

// A conversation without an image, whose tokens depend on `first`.
Request other(int64_t first, int64_t max_new_tokens) {
  Request made;
  made.prompt = Ids{first, 5};
  made.max_new_tokens = max_new_tokens;
  return made;
}

TEST(Request, AnswersAndSaysWhatThereIsToSay) {
  std::vector<test::Seen> seen;
  const Answer got = answer(test::fake_engine(&seen), request(), kOpen);
  EXPECT_EQ(got.token_ids, (Ids{6, 3, 1, 0}));
  EXPECT_EQ(seen.size(), 3u);
  EXPECT_EQ(got.prompt_ids, (Ids{1, 2, 3}));
  EXPECT_EQ(got.keep_indices, (Ids{2, 3}));
  EXPECT_EQ(got.kept_layers, (Ids{0, 2}));
  EXPECT_EQ(got.usage.text_tokens, 3);
  EXPECT_EQ(got.usage.image_tokens, test::kImageTokens);
  EXPECT_EQ(got.usage.kept_image_tokens, test::kKept);
  EXPECT_EQ(got.usage.new_tokens, 4);
  EXPECT_EQ(got.finish, Finish::kLength);
  EXPECT_EQ(got.text, "");
}

TEST(Request, KeepsAsMuchOfItsImagesAsItAsksFor) {
  Request asked = request();
  asked.keep = 0.25;
  EXPECT_EQ(answer(test::fake_engine(), asked, kOpen).keep_indices, Ids{3});
  asked.keep = 1;
  EXPECT_EQ(answer(test::fake_engine(), asked, kOpen).usage.kept_image_tokens, test::kImageTokens);
}

TEST(Request, AStopTokenEndsItAndCounts) {
  EngineFacts facts = test::fake_facts();
  facts.model.stop_ids = {9, 1};
  const Answer got = answer({test::fake_entry(), facts, test::fake_sessions()}, request(), kOpen);
  EXPECT_EQ(got.token_ids, (Ids{6, 3, 1}));
  EXPECT_EQ(got.finish, Finish::kStop);
}

TEST(Request, OneTokenNeedsNoDecoding) {
  std::vector<test::Seen> seen;
  const Answer got = answer(test::fake_engine(&seen), request(1), kOpen);
  EXPECT_EQ(got.token_ids, (Ids{6}));
  EXPECT_TRUE(seen.empty());
  EXPECT_FALSE(got.timing.tpot_ms);
}

TEST(Request, TheDefaultLengthIsWhatFits) {
  Request asked = request();
  asked.max_new_tokens.reset();
  EXPECT_EQ(answer(test::fake_engine(), asked, kOpen).token_ids.size(), 8u);
  EngineFacts facts = test::fake_facts();
  facts.model.max_positions = 9;  // two more than the prompt
  EXPECT_EQ(answer({test::fake_entry(), facts, test::fake_sessions()}, asked, kOpen).token_ids.size(), 2u);
}

TEST(Request, WithoutATokenizerTheCallbackComesOncePerToken) {
  std::vector<int64_t> counts;
  Request asked = request();
  asked.piece = [&](std::string_view text, int64_t count) {
    EXPECT_EQ(text, "");
    counts.push_back(count);
    return true;
  };
  answer(test::fake_engine(), asked, kOpen);
  EXPECT_EQ(counts, (Ids{1, 2, 3, 4}));
}

TEST(Request, ACallbackEndsIt) {
  std::vector<test::Seen> seen;
  Request asked = request();
  asked.piece = [](std::string_view, int64_t count) { return count < 2; };
  EXPECT_EQ(test::status_of([&] { answer(test::fake_engine(&seen), asked, kOpen); }), AR_REQUEST_CANCELLED);
  EXPECT_EQ(seen.size(), 1u);
}

TEST(Request, TheCheckComesBeforeEachStep) {
  int checks = 0;
  answer(test::fake_engine(), request(), [&] { ++checks; });
  EXPECT_EQ(checks, 3 + 3);  // vision, router, prefill; three tokens
  for (int last = 0; last < 6; ++last) {
    std::vector<test::Seen> seen;
    int left = last;
    const auto check = [&] {
      if (left-- == 0) throw Error(AR_REQUEST_CANCELLED, "enough");
    };
    EXPECT_EQ(test::status_of([&] { answer(test::fake_engine(&seen), request(), check); }), AR_REQUEST_CANCELLED);
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(std::max(0, last - 3)));
  }
}

TEST(Request, TimesAddUp) {
  const Timing timing = answer(test::fake_engine(), request(), kOpen).timing;
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
    return test::status_of([&] { answer(test::fake_engine(), asked, kOpen); });
  };
  EXPECT_EQ(refused([](Request&) {}), AR_OK);
  EXPECT_EQ(refused([](Request& r) { r.max_new_tokens = 0; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.max_new_tokens = -4; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.max_new_tokens = 9; }), AR_PROMPT_TOO_LONG);
  EXPECT_EQ(refused([](Request& r) { r.sampling.temperature = -1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.keep = -0.5; }), AR_INVALID_BUDGET);
  EXPECT_EQ(refused([](Request& r) { r.keep = 1.5; }), AR_INVALID_BUDGET);
  EXPECT_EQ(refused([](Request& r) { r.stop = {""}; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.stop = {"."}; }), AR_INPUT_INVALID);  // there is no tokenizer
  EXPECT_EQ(refused([](Request& r) { r.prompt = Rendered{"what?"}; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.prompt = std::vector<Message>{{"user", {{false, "what?"}}}}; }),
            AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.prompt = Ids{99, 1}; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.images.clear(); }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Request& r) { r.images[0].rgb = nullptr; }), AR_IMAGE_INVALID);
}

TEST(Request, LogitsThatAreNoNumbersEndIt) {
  Sessions sessions = test::fake_sessions();
  sessions.decoder = std::make_shared<test::FakeSession>(
      sessions.decoder->inputs(), sessions.decoder->outputs(), test::FakeSession::Compute{},
      [](const Tensors& inputs, const Tensors& outputs) {
        if (outputs.count(t::kLogits) == 0) return test::prompted(inputs);
        *static_cast<float*>(const_cast<void*>(outputs.at(t::kLogits)->data())) =
            std::numeric_limits<float>::quiet_NaN();
        return Tensors{};
      });
  const Engine engine(test::fake_entry(), test::fake_facts(), sessions);
  EXPECT_EQ(test::status_of([&] { answer(engine, request(), kOpen); }), AR_BACKEND_ERROR);
}

// Three requests of several lengths.
std::vector<Request> three() { return {other(2, 3), request(6), other(6, 8)}; }

ar_status status_of(const Outcome& outcome) {
  return test::status_of([&] {
    if (outcome.error) std::rethrow_exception(outcome.error);
  });
}

TEST(Batch, EachIsAnsweredAsAlone) {
  for (const bool dynamic : {true, false}) {
    const Engine engine = test::fake_engine(nullptr, dynamic);
    const std::vector<Outcome> got = answer_all(engine, three(), kOpen);
    ASSERT_EQ(got.size(), 3u);
    for (std::size_t index = 0; index < 3; ++index) {
      ASSERT_TRUE(got[index].answer) << index;
      const Answer alone = answer(engine, three()[index], kOpen);
      EXPECT_EQ(got[index].answer->token_ids, alone.token_ids) << index;
      EXPECT_EQ(got[index].answer->keep_indices, alone.keep_indices) << index;
      EXPECT_EQ(got[index].answer->finish, alone.finish) << index;
    }
  }
}

TEST(Batch, EachStepDecodesThoseThatAreLeft) {
  std::vector<test::Seen> seen;
  answer_all(test::fake_engine(&seen, false), three(), kOpen);
  EXPECT_EQ(seen.size(), 2u + 5u + 7u);
}

TEST(Batch, OnesFailureEndsThatOneAlone) {
  const Engine engine = test::fake_engine(nullptr, false);
  const auto ends = [&](const std::function<void(Request&)>& change, ar_status wanted) {
    for (std::size_t which = 0; which < 3; ++which) {
      std::vector<Request> asked = three();
      change(asked[which]);
      const std::vector<Outcome> got = answer_all(engine, asked, kOpen);
      for (std::size_t index = 0; index < 3; ++index) {
        EXPECT_EQ(status_of(got[index]), index == which ? wanted : AR_OK);
        if (index == which) {
          EXPECT_FALSE(got[index].answer);
        } else {
          EXPECT_EQ(got[index].answer->token_ids, answer(engine, three()[index], kOpen).token_ids);
        }
      }
    }
  };
  ends([](Request& r) { r.max_new_tokens = 0; }, AR_INPUT_INVALID);
  ends([](Request& r) { r.images = {{nullptr, 4, 4, 0}}, r.prompt = request().prompt; }, AR_IMAGE_INVALID);
  ends([](Request& r) { r.cancel.cancel(); }, AR_REQUEST_CANCELLED);
  ends([](Request& r) { r.piece = [](std::string_view, int64_t) { return false; }; }, AR_REQUEST_CANCELLED);
  ends([](Request& r) { r.piece = [](std::string_view, int64_t count) { return count < 2; }; }, AR_REQUEST_CANCELLED);
}

TEST(Batch, ClosingEndsThemAll) {
  int left = 12;
  const Check closing = [&] {
    if (left-- <= 0) throw Error(AR_REQUEST_CANCELLED, "closed");
  };
  for (const Outcome& each : answer_all(test::fake_engine(nullptr, false), three(), closing)) {
    EXPECT_EQ(status_of(each), AR_REQUEST_CANCELLED);
  }
}

TEST(Batch, NoMoreThanTheLimit) {
  const Engine engine = test::fake_engine(nullptr, false);
  const std::vector<Request> four(4, request());
  std::string message;
  EXPECT_EQ(test::status_of([&] { answer_all(engine, four, kOpen); }, &message), AR_INPUT_INVALID);
  EXPECT_NE(message.find("up to 3"), std::string::npos) << message;
  EXPECT_TRUE(answer_all(engine, {}, kOpen).empty());
}

TEST(Batch, APoolIsAsLargeAsTheLargestNeeds) {
  const auto decoder = test::fake_decoder(nullptr, false);
  Sessions sessions = test::fake_sessions(nullptr, false);
  sessions.decoder = decoder;
  answer_all({test::fake_entry(false), test::fake_facts(), sessions}, three(), kOpen);
  EXPECT_EQ(decoder->rows_of.at("cache_key.0"), 3 + test::kKept + 5);  // of the second: K is 0, and 5 follow the first
}

}  // namespace
}  // namespace ar
