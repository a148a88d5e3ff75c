// The C++ wrapper: every function, what it hands to the C interface, and how errors and callbacks' exceptions return.
#include <gtest/gtest.h>

#include <type_traits>

#include "allrounder/allrounder.hpp"
#include "c_api_double.hpp"

namespace {

using allrounder::Answer;
using allrounder::Cancellation;
using allrounder::LoadOptions;
using allrounder::Request;
using allrounder::Runtime;
using ar_double::world;
using Ids = std::vector<std::int64_t>;

template <class T>
constexpr bool kMoveOnly = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                           !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(kMoveOnly<Runtime> && kMoveOnly<allrounder::Bundle> && kMoveOnly<Answer> && kMoveOnly<Cancellation>);

struct Mine : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Every test ends with no handle left.
class Wrapper : public testing::Test {
 protected:
  void SetUp() override { ar_double::reset(); }
  void TearDown() override {
    for (const auto& [kind, count] : world().alive) EXPECT_EQ(count, 0) << kind;
  }
};

template <class Call>
std::string thrown_by(Call&& call) {
  try {
    call();
  } catch (const allrounder::Error& error) {
    return error.name() + ": " + error.what();
  }
  return "nothing";
}

TEST_F(Wrapper, LoadsWithDefaultsAsZeros) {
  Runtime::load("bundles/demo");
  const auto& seen = world().loaded;
  EXPECT_EQ(seen.bundle, "bundles/demo");
  EXPECT_EQ(seen.options.size, sizeof(ar_load_options));
  EXPECT_EQ(seen.version, "(null)");
  EXPECT_EQ(seen.options.ttft_ms, 0);
  EXPECT_EQ(seen.options.tpot_ms, 0);
  EXPECT_EQ(seen.options.percentile, 95);
  EXPECT_EQ(seen.options.fallback_fastest, 0);
  EXPECT_EQ(seen.options.threads, 0);
  EXPECT_EQ(seen.options.weights, AR_WEIGHTS_FAST);
  EXPECT_EQ(seen.device, "cpu");
  EXPECT_EQ(seen.options.ids_only, 0);
  EXPECT_EQ(seen.ort_library, "(null)");
  EXPECT_EQ(seen.openvino_library, "(null)");
  EXPECT_EQ(seen.options.log, nullptr);
}

TEST_F(Wrapper, HandsEveryLoadOptionOver) {
  LoadOptions options;
  options.version = "par-nano";
  options.ttft_ms = 40;
  options.tpot_ms = 2.5;
  options.percentile = 99;
  options.fallback_fastest = true;
  options.threads = 3;
  options.weights = AR_WEIGHTS_SHARED;
  options.device = "cuda:1";
  options.ids_only = true;
  options.ort_library = "/opt/libonnxruntime.so";
  options.openvino_library = "/opt/libopenvino_c.so";
  std::string told;
  options.log = [&](ar_level level, std::string_view message) {
    told += std::to_string(level) + std::string(message) + ";";
  };
  world().on_load = [](const ar_load_options& raw) { raw.log(raw.user, AR_LOG_WARNING, "slow"); };
  Runtime::load("b", options);
  const auto& seen = world().loaded;
  EXPECT_EQ(seen.version, "par-nano");
  EXPECT_EQ(seen.options.ttft_ms, 40);
  EXPECT_EQ(seen.options.tpot_ms, 2.5);
  EXPECT_EQ(seen.options.percentile, 99);
  EXPECT_EQ(seen.options.fallback_fastest, 1);
  EXPECT_EQ(seen.options.threads, 3);
  EXPECT_EQ(seen.options.weights, AR_WEIGHTS_SHARED);
  EXPECT_EQ(seen.device, "cuda:1");
  EXPECT_EQ(seen.options.ids_only, 1);
  EXPECT_EQ(seen.ort_library, "/opt/libonnxruntime.so");
  EXPECT_EQ(seen.openvino_library, "/opt/libopenvino_c.so");
  EXPECT_EQ(told, "1slow;");
}

TEST_F(Wrapper, HandsEveryRequestFieldOver) {
  const Runtime runtime = Runtime::load("b");
  const std::uint8_t pixels[12] = {};
  const Cancellation cancellation;
  Request request = Request::ask({pixels, 2, 1, 8}, std::string("what\0?", 6));
  request.messages.insert(request.messages.begin(), {"system", {"be brief", ""}});
  request.keep = 0.25;
  request.max_new_tokens = 16;
  request.temperature = 0.5;
  request.top_k = 4;
  request.top_p = 0.9;
  request.seed = 0;
  request.stop = {"one", "two"};
  request.cancel = &cancellation;
  runtime.generate(request);
  const auto& seen = world().asked.back();
  EXPECT_EQ(seen.request.size, sizeof(ar_request));
  ASSERT_EQ(seen.messages.size(), 2U);
  EXPECT_EQ(seen.messages[0].size, sizeof(ar_message));
  EXPECT_EQ(seen.messages[0].role, "system");
  ASSERT_EQ(seen.messages[0].parts.size(), 2U);
  EXPECT_EQ(seen.messages[0].parts[0].text, "be brief");
  EXPECT_EQ(seen.messages[0].parts[1].text, "");
  EXPECT_EQ(seen.messages[1].role, "user");
  ASSERT_EQ(seen.messages[1].parts.size(), 2U);
  const auto& [image, text] = seen.messages[1].parts[0];
  EXPECT_EQ(image.size, sizeof(ar_part));
  EXPECT_EQ(image.rgb, pixels);
  EXPECT_EQ(image.width, 2);
  EXPECT_EQ(image.height, 1);
  EXPECT_EQ(image.row_bytes, 8);
  EXPECT_EQ(text, "(null)");
  EXPECT_EQ(seen.messages[1].parts[1].text, std::string("what\0?", 6));
  EXPECT_EQ(seen.messages[1].parts[1].part.rgb, nullptr);
  EXPECT_EQ(seen.request.text, nullptr);
  EXPECT_EQ(seen.request.ids, nullptr);
  EXPECT_EQ(seen.request.image_count, 0U);
  EXPECT_EQ(seen.request.keep, 0.25);
  EXPECT_EQ(seen.request.max_new_tokens, 16);
  EXPECT_EQ(seen.request.temperature, 0.5);
  EXPECT_EQ(seen.request.top_k, 4);
  EXPECT_EQ(seen.request.top_p, 0.9);
  EXPECT_EQ(seen.request.seeded, 1);
  EXPECT_EQ(seen.request.seed, 0U);
  EXPECT_EQ(seen.stop, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(seen.request.cancel, cancellation.get());
  EXPECT_EQ(seen.request.piece, nullptr);
}

TEST_F(Wrapper, AQuestionIsNotEmpty) {
  for (const char* const question : {"", " \t\n"}) {
    EXPECT_EQ(thrown_by([&] { Request::ask({}, question); }),
              "InputInvalid: the question is empty; ask something; where: question");
  }
}

TEST_F(Wrapper, AsksByTextOrIdsWithImages) {
  const Runtime runtime = Runtime::load("b");
  const std::uint8_t pixels[3] = {};
  Request request;
  request.ids = {1, 2};
  request.images = {{pixels, 1, 1}};
  runtime.generate(request);
  EXPECT_EQ(world().asked.back().ids, (Ids{1, 2}));
  EXPECT_EQ(world().asked.back().images.at(0).part.rgb, pixels);
  EXPECT_EQ(world().asked.back().request.messages, nullptr);
  EXPECT_EQ(world().asked.back().request.max_new_tokens, 0);
  EXPECT_EQ(world().asked.back().request.seeded, 0);
  request.ids.clear();
  request.text = std::string("<image>\0", 8);
  runtime.generate(request);
  EXPECT_EQ(world().asked.back().text, request.text);
  EXPECT_EQ(world().asked.back().request.ids, nullptr);
}

TEST_F(Wrapper, AsksSeveralAtOnce) {
  const Runtime runtime = Runtime::load("b");
  Request first, second, third;
  first.ids = {1};
  second.ids = {2};
  third.ids = {3};
  const Cancellation cancellation;
  cancellation.cancel();
  second.cancel = &cancellation;
  const std::vector<allrounder::Outcome> outcomes = runtime.generate_batch({first, second, third});
  ASSERT_EQ(outcomes.size(), 3U);
  EXPECT_EQ(outcomes[0].answer->token_ids(), (Ids{11, 12, 13, 14}));
  EXPECT_FALSE(outcomes[0].error);
  EXPECT_FALSE(outcomes[1].answer);
  EXPECT_EQ(outcomes[1].error->name(), "RequestCancelled");
  EXPECT_TRUE(outcomes[2].answer);
  for (const std::size_t index : {0U, 1U, 2U}) {
    EXPECT_EQ(world().asked[index].ids, Ids{static_cast<std::int64_t>(index) + 1});
  }
  EXPECT_TRUE(runtime.generate_batch({}).empty());
}

TEST_F(Wrapper, CarriesWhatAPieceOfOneOfSeveralThrows) {
  const Runtime runtime = Runtime::load("b");
  world().on_generate = [](const ar_request& raw) { return raw.piece ? raw.piece(raw.user, "x", 1, 1) : 0; };
  Request throws;
  throws.piece = [](std::string_view, std::int64_t) { throw Mine("enough"); };
  EXPECT_THROW(runtime.generate_batch({Request{}, throws, Request{}}), Mine);  // and no handle is left
}

TEST_F(Wrapper, GivesTheAnswer) {
  const Answer answer = Runtime::load("b").generate(Request{});  // outlives its runtime
  EXPECT_EQ(answer.text(), std::string("a\0red", 5));
  EXPECT_EQ(answer.token_ids(), (Ids{11, 12, 13, 14}));
  EXPECT_EQ(answer.prompt_ids(), (Ids{12, 13, 14}));
  EXPECT_EQ(answer.keep_indices(), (Ids{13, 14}));
  EXPECT_EQ(answer.kept_layers(), Ids{});
  EXPECT_EQ(answer.finish(), AR_FINISH_LENGTH);
  EXPECT_EQ(answer.usage().text_tokens, 31);
  EXPECT_EQ(answer.usage().image_tokens, 32);
  EXPECT_EQ(answer.usage().kept_image_tokens, 33);
  EXPECT_EQ(answer.usage().new_tokens, 34);
  const allrounder::Timing timing = answer.timing();
  EXPECT_EQ(timing.preprocess_ms, 1);
  EXPECT_EQ(timing.vision_ms, 2);
  EXPECT_EQ(timing.router_ms, 3);
  EXPECT_EQ(timing.prefill_ms, 4);
  EXPECT_EQ(timing.decode_ms, 5);
  EXPECT_EQ(timing.ttft_ms, 6);
  EXPECT_FALSE(timing.tpot_ms) << "one token";
}

TEST_F(Wrapper, SaysWhatItRuns) {
  const Runtime runtime = Runtime::load("b");
  EXPECT_EQ(runtime.version(), "par-lite");
  EXPECT_EQ(runtime.entry(), "{}");
  EXPECT_EQ(runtime.manifest(), "{\"schema\":1}");
  EXPECT_EQ(allrounder::library_version(), "0.1.0");
  EXPECT_EQ(runtime.encode({{"user", {std::string("a\0b", 3)}}}), (Ids{12, 13, 14}));
  EXPECT_EQ(world().asked.back().messages.at(0).parts.at(0).text, std::string("a\0b", 3));
}

TEST_F(Wrapper, OpensBundlesAlone) {
  EXPECT_EQ(allrounder::Bundle::open("bundles/demo").manifest(), "{\"schema\":1,\"files\":{}}");
  EXPECT_EQ(world().loaded.bundle, "bundles/demo");
}

TEST_F(Wrapper, ThrowsTheErrorOfEveryCall) {
  const Runtime runtime = Runtime::load("b");
  const auto fail = [] { world().fail = new ar_error{AR_BUNDLE_CORRUPT, "BundleCorrupt", "changed; where: x"}; };
  const std::string wanted = "BundleCorrupt: changed; where: x";
  fail();
  EXPECT_EQ(thrown_by([] { Runtime::load("b"); }), wanted);
  fail();
  EXPECT_EQ(thrown_by([&] { runtime.generate(Request{}); }), wanted);
  fail();
  EXPECT_EQ(thrown_by([&] { runtime.encode({}); }), wanted);
  fail();
  EXPECT_EQ(thrown_by([&] { runtime.generate_batch({Request{}}); }), wanted);
  fail();
  EXPECT_EQ(thrown_by([] { allrounder::Bundle::open("b"); }), wanted);
  fail();
  EXPECT_EQ(thrown_by([] { Cancellation(); }), wanted);
  try {
    fail();
    Runtime::load("b");
  } catch (const allrounder::Error& error) {
    EXPECT_EQ(error.status(), AR_BUNDLE_CORRUPT);
  }
}

TEST_F(Wrapper, RefusesWhatTheInterfaceWouldReadAsSomethingElse) {
  const Runtime runtime = Runtime::load("b");
  const auto load = [](auto change) {
    return thrown_by([&] {
      LoadOptions options;
      change(options);
      Runtime::load("b", options);
    });
  };
  const auto ask = [&](auto change) {
    return thrown_by([&] {
      Request request;
      change(request);
      runtime.generate(request);
    });
  };
  const std::string zero = "InputInvalid: zero is no value; leave it out for the default; where: ";
  EXPECT_EQ(load([](auto& o) { o.ttft_ms = 0; }), zero + "ttft_ms");
  EXPECT_EQ(load([](auto& o) { o.tpot_ms = 0; }), zero + "tpot_ms");
  EXPECT_EQ(load([](auto& o) { o.percentile = 0; }), zero + "percentile");
  EXPECT_EQ(load([](auto& o) { o.threads = 0; }), zero + "threads");
  EXPECT_EQ(ask([](auto& r) { r.max_new_tokens = 0; }), zero + "max_new_tokens");
  EXPECT_EQ(ask([](auto& r) { r.top_p = 0; }), zero + "top_p");
  EXPECT_EQ(ask([](auto& r) { r.keep = 0; }), zero + "keep");
  const std::string cut("a\0b", 3), byte = "InputInvalid: the text holds a zero byte; where: ";
  EXPECT_EQ(thrown_by([&] { Runtime::load(cut); }), byte + "bundle");
  EXPECT_EQ(thrown_by([&] { allrounder::Bundle::open(cut); }), byte + "path");
  EXPECT_EQ(load([&](auto& o) { o.version = cut; }), byte + "version");
  EXPECT_EQ(load([&](auto& o) { o.device = cut; }), byte + "device");
  EXPECT_EQ(load([&](auto& o) { o.ort_library = cut; }), byte + "ort_library");
  EXPECT_EQ(load([&](auto& o) { o.openvino_library = cut; }), byte + "openvino_library");
  EXPECT_EQ(ask([&](auto& r) { r.stop = {"ok", cut}; }), byte + "stop");
  EXPECT_EQ(ask([&](auto& r) { r.messages = {{cut, {}}}; }), byte + "role");
}

TEST_F(Wrapper, StreamsPieces) {
  const Runtime runtime = Runtime::load("b");
  world().on_generate = [](const ar_request& raw) {
    return raw.piece(raw.user, "a\0", 2, 1) + raw.piece(raw.user, "red", 3, 4);
  };
  std::string text;
  std::int64_t tokens = 0;
  Request request;
  request.piece = [&](std::string_view piece, std::int64_t count) {
    text += piece;
    tokens = count;
  };
  runtime.generate(request);
  EXPECT_EQ(text, std::string("a\0red", 5));
  EXPECT_EQ(tokens, 4);
}

TEST_F(Wrapper, CarriesWhatAPieceThrows) {
  const Runtime runtime = Runtime::load("b");
  int pieces = 0;
  world().on_generate = [&](const ar_request& raw) {
    while (raw.piece(raw.user, "x", 1, 1) == 0) ++pieces;
    return 1;
  };
  Request request;
  request.piece = [&](std::string_view, std::int64_t) {
    if (pieces == 2) throw Mine("enough");
  };
  try {
    runtime.generate(request);
    FAIL() << "nothing was thrown";
  } catch (const Mine& error) {
    EXPECT_STREQ(error.what(), "enough");
  }
  EXPECT_EQ(pieces, 2);
  world().on_generate = nullptr;
  EXPECT_EQ(runtime.generate(Request{}).finish(), AR_FINISH_LENGTH) << "and the runtime goes on";
}

TEST_F(Wrapper, CarriesWhatALogThrows) {
  LoadOptions options;
  int calls = 0;
  options.log = [&](ar_level, std::string_view) {
    ++calls;
    throw Mine("log");
  };
  world().on_load = [](const ar_load_options& raw) {
    raw.log(raw.user, AR_LOG_INFO, "first");
    raw.log(raw.user, AR_LOG_INFO, "second");
  };
  EXPECT_THROW(Runtime::load("b", options), Mine);
  EXPECT_EQ(calls, 1) << "after the first no other is called";
  world().on_load = nullptr;
  const Runtime runtime = Runtime::load("b", options);
  world().on_close = [](const ar_load_options& raw) { raw.log(raw.user, AR_LOG_INFO, "closing"); };
  EXPECT_THROW(runtime.close(), Mine);
}

TEST_F(Wrapper, LogsUntilTheRuntimeIsGone) {
  LoadOptions options;
  int calls = 0;
  options.log = [&](ar_level, std::string_view) {
    ++calls;
    throw Mine("nobody can catch this");
  };
  world().on_free = [](const ar_load_options& raw) { raw.log(raw.user, AR_LOG_INFO, "freed"); };
  {
    Runtime first = Runtime::load("b", options);
    first = Runtime::load("b", options);  // frees one, with its callbacks still there
    EXPECT_EQ(calls, 1);
    const Runtime moved = std::move(first);
    EXPECT_EQ(moved.version(), "par-lite");
  }
  EXPECT_EQ(calls, 2);
  world().on_free = nullptr;
  EXPECT_EQ(thrown_by([] { Runtime::load("c"); }), "nothing") << "what was thrown there is forgotten";
}

TEST_F(Wrapper, ACallbackMayMakeCallsItself) {
  const Runtime outer = Runtime::load("b");
  const Runtime inner = Runtime::load("c");
  world().on_generate = [&](const ar_request& raw) { return raw.piece ? raw.piece(raw.user, "x", 1, 1) : 0; };
  Request request;
  request.piece = [&](std::string_view, std::int64_t) {
    inner.generate(Request{});  // goes well, and hides nothing
    throw Mine("after");
  };
  EXPECT_THROW(outer.generate(request), Mine);
  request.piece = [&](std::string_view, std::int64_t) {
    world().fail = new ar_error{AR_RUNTIME_CLOSED, "RuntimeClosed", "closed"};
    inner.generate(Request{});
  };
  EXPECT_EQ(thrown_by([&] { outer.generate(request); }), "RuntimeClosed: closed");
}

TEST_F(Wrapper, Cancels) {
  const Runtime runtime = Runtime::load("b");
  Cancellation first;
  const Cancellation cancellation = std::move(first);
  Request request;
  request.cancel = &cancellation;
  runtime.generate(request);
  cancellation.cancel();
  EXPECT_EQ(thrown_by([&] { runtime.generate(request); }), "RequestCancelled: the request was cancelled");
}

TEST_F(Wrapper, Closes) {
  const Runtime runtime = Runtime::load("b");
  runtime.close();
  EXPECT_EQ(world().closed_with, 1);
  runtime.close(false);
  EXPECT_EQ(world().closed_with, 0);
}

}  // namespace
