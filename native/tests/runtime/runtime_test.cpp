// The runtime on a real bundle: loading, answering, many at once, cancelling, closing.
#include "runtime/runtime.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "contract/sha256.hpp"
#include "world.hpp"

namespace ar {
namespace {

using Plain = nlohmann::ordered_json;

const std::vector<uint8_t> kPixels = test::image(9, 6);

LoadOptions options(const std::string& version = "full") {
  LoadOptions made;
  made.version = version;
  made.engine.threads = 1;
  return made;
}

std::vector<Message> turn(const std::string& question) { return {{"user", {{true, ""}, {false, question}}}}; }

Request request(const std::string& question = "what is it?", uint64_t seed = 1) {
  Request made;
  made.images = {{kPixels.data(), 9, 6, 0}};
  made.prompt = turn(question);
  made.max_new_tokens = 12;
  made.sampling = {8.0, 0, 1.0, seed};
  return made;
}

class OnRuntime : public test::OnBundle, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    OnBundle::SetUp();
    if (!IsSkipped()) runtime_ = Runtime::load(test::bundle_path(), options(GetParam()));
  }
  std::unique_ptr<Runtime> runtime_;
};

INSTANTIATE_TEST_SUITE_P(Versions, OnRuntime, ::testing::Values("full", "t2-l2"),
                         [](const auto& each) { return std::string(each.param).substr(0, 2); });

TEST_P(OnRuntime, PiecesPutTogetherAreTheAnswer) {
  const Answer whole = runtime_->generate(request());
  EXPECT_EQ(whole.token_ids.size(), 12u);
  EXPECT_EQ(runtime_->entry().pruning.version, GetParam());
  Request streamed = request();
  std::string text;
  int64_t last = 0;
  streamed.piece = [&](std::string_view piece, int64_t count) {
    EXPECT_FALSE(piece.empty());
    EXPECT_GE(count, last);
    last = count;
    text += piece;
    return true;
  };
  const Answer again = runtime_->generate(streamed);
  EXPECT_EQ(text, whole.text);
  EXPECT_EQ(again.token_ids, whole.token_ids);
}

TEST_P(OnRuntime, AStopTextEndsItAndIsLeftOut) {
  const std::string free = runtime_->generate(request("what?", 5)).text;
  std::size_t cut = 4;
  while (cut < free.size() && (free[cut] & 0x80) != 0) ++cut;  // the stop text is one ASCII character
  ASSERT_LT(cut, free.size());
  Request asked = request("what?", 5);
  asked.stop = {"never said", std::string(1, free[cut])};
  const Answer answer = runtime_->generate(asked);
  EXPECT_EQ(answer.text, free.substr(0, free.find(free[cut])));
  EXPECT_EQ(answer.finish, Finish::kStop);
}

TEST_P(OnRuntime, TextAndIdsAnswerAsTheirMessages) {
  const Answer wanted = runtime_->generate(request());
  Request by_text = request();
  by_text.prompt = Rendered{"USER: <image>\nwhat is it? ASSISTANT:"};
  EXPECT_EQ(runtime_->generate(by_text).token_ids, wanted.token_ids);
  Request by_ids = request();
  by_ids.prompt = runtime_->encode(turn("what is it?"));
  EXPECT_EQ(runtime_->generate(by_ids).token_ids, wanted.token_ids);
  LoadOptions ids_only = options(GetParam());
  ids_only.ids_only = true;
  const auto bare = Runtime::load(test::bundle_path(), ids_only);
  const Answer answer = bare->generate(by_ids);
  EXPECT_EQ(answer.token_ids, wanted.token_ids);
  EXPECT_EQ(answer.text, "");
  EXPECT_EQ(test::status_of([&] { bare->generate(request()); }), AR_INPUT_INVALID);
}

TEST_P(OnRuntime, ConversationsHaveAsManyImagesAsTheyLike) {
  const std::vector<uint8_t> second = test::image(5, 7, 2);
  Request asked = request();
  asked.prompt = std::vector<Message>{{"user", {{true, ""}, {false, "one"}, {true, ""}}},
                                      {"assistant", {{false, "so"}}},
                                      {"user", {{false, "and now?"}}}};
  asked.images = {{kPixels.data(), 9, 6, 0}, {second.data(), 5, 7, 0}};
  const Answer two = runtime_->generate(asked);
  EXPECT_EQ(two.usage.image_tokens, 8);
  std::swap(asked.images[0], asked.images[1]);
  EXPECT_EQ(runtime_->generate(asked).usage.kept_image_tokens, two.usage.kept_image_tokens);
  asked.images.pop_back();
  EXPECT_EQ(test::status_of([&] { runtime_->generate(asked); }), AR_INPUT_INVALID);
  asked.prompt = std::vector<Message>{{"user", {{false, "no image"}}}};
  asked.images.clear();
  EXPECT_EQ(runtime_->generate(asked).usage.image_tokens, 0);
}

TEST_P(OnRuntime, TogetherIsAsAlone) {
  std::vector<Request> asked;
  for (uint64_t number = 0; number < 3; ++number) {
    asked.push_back(request("question " + std::to_string(number), number));
    asked.back().max_new_tokens = static_cast<int64_t>(3 + 4 * number);
  }
  asked[1].prompt = std::vector<Message>{{"user", {{false, "no image"}}}};
  asked[1].images.clear();
  const std::vector<Outcome> together = runtime_->generate_all(asked);
  ASSERT_EQ(together.size(), asked.size());
  for (std::size_t index = 0; index < asked.size(); ++index) {
    ASSERT_TRUE(together[index].answer);
    EXPECT_EQ(together[index].answer->token_ids, runtime_->generate(asked[index]).token_ids) << index;
  }
}

TEST_P(OnRuntime, RowsWithGapsAnswerAsDenseOnes) {
  std::vector<uint8_t> gaps(6 * 40, 0xee);
  for (std::size_t row = 0; row < 6; ++row) std::copy_n(kPixels.begin() + 27 * row, 27, gaps.begin() + 40 * row);
  Request asked = request();
  asked.images = {{gaps.data(), 9, 6, 40}};
  EXPECT_EQ(runtime_->generate(asked).token_ids, runtime_->generate(request()).token_ids);
}

TEST_P(OnRuntime, ManyAtOnceAnswerAsOneAfterTheOther) {
  const auto ask = [&](std::size_t number) {
    return runtime_->generate(request("question " + std::to_string(number), number)).token_ids;
  };
  std::vector<std::vector<int64_t>> alone, together(64);
  for (std::size_t number = 0; number < 64; ++number) alone.push_back(ask(number));
  std::atomic<std::size_t> next{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 8; ++thread) {
    threads.emplace_back([&] {
      for (std::size_t number; (number = next++) < 64;) together[number] = ask(number);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

// Asks again and again until an error ends it; returns its status.
ar_status endless(Runtime& runtime, const Cancellation& cancel, std::promise<void>* answered) {
  return test::status_of([&] {
    while (true) {
      Request asked = request();
      asked.cancel = cancel;
      asked.max_new_tokens = 32;
      runtime.generate(asked);
      if (answered != nullptr) std::exchange(answered, nullptr)->set_value();
    }
  });
}

TEST_P(OnRuntime, CancellingFromAnotherThread) {
  const Cancellation cancel;
  std::promise<void> answered;
  auto status = std::async(std::launch::async, [&] { return endless(*runtime_, cancel, &answered); });
  answered.get_future().wait();
  cancel.cancel();
  EXPECT_EQ(status.get(), AR_REQUEST_CANCELLED);
  EXPECT_EQ(runtime_->generate(request()).token_ids.size(), 12u);  // the others are not touched
}

TEST_P(OnRuntime, CancellingMidwayEndsBeforeTheNextStep) {
  Request asked = request();
  const Cancellation cancel;
  asked.cancel = cancel;
  int pieces = 0;
  asked.piece = [&](std::string_view, int64_t) {
    ++pieces;
    cancel.cancel();
    return true;
  };
  EXPECT_EQ(test::status_of([&] { runtime_->generate(asked); }), AR_REQUEST_CANCELLED);
  EXPECT_EQ(pieces, 1);
}

TEST_P(OnRuntime, ClosingEndsWhatRunsAndRefusesWhatComes) {
  for (const bool cancel : {true, false}) {
    const auto runtime = Runtime::load(test::bundle_path(), options(GetParam()));
    std::vector<std::promise<void>> answered(4);
    std::vector<std::future<ar_status>> ends;
    for (std::promise<void>& each : answered) {
      ends.push_back(std::async(std::launch::async, [&] { return endless(*runtime, Cancellation(), &each); }));
    }
    for (std::promise<void>& each : answered) each.get_future().wait();
    runtime->close(cancel);
    for (std::future<ar_status>& end : ends) {
      const ar_status status = end.get();
      // Each was allowed to end its request where nobody cancelled.
      EXPECT_TRUE(status == AR_RUNTIME_CLOSED || (cancel && status == AR_REQUEST_CANCELLED)) << status;
    }
    EXPECT_EQ(test::status_of([&] { runtime->generate(request()); }), AR_RUNTIME_CLOSED);
    EXPECT_EQ(test::status_of([&] { runtime->encode(turn("what?")); }), AR_RUNTIME_CLOSED);
    EXPECT_EQ(runtime->entry().pruning.version, GetParam());
    runtime->close(true);
  }
}

TEST_P(OnRuntime, ClosingWaitsForWhatRuns) {
  std::promise<void> started, go_on;
  Request asked = request();
  bool first = true;
  asked.piece = [&](std::string_view, int64_t) {
    if (std::exchange(first, false)) {
      started.set_value();
      go_on.get_future().wait();
    }
    return true;
  };
  auto answer = std::async(std::launch::async, [&] { return runtime_->generate(asked).token_ids.size(); });
  started.get_future().wait();
  std::atomic<bool> closed{false};
  std::thread closer([&] {
    runtime_->close(false);
    closed = true;
  });
  while (test::status_of([&] { runtime_->encode(turn("what?")); }) != AR_RUNTIME_CLOSED) std::this_thread::yield();
  EXPECT_FALSE(closed);  // the door is shut, and someone is still inside
  go_on.set_value();
  closer.join();
  EXPECT_EQ(answer.get(), 12u);
}

class Loading : public test::OnBundle {};

TEST_F(Loading, ImpossibleOptionsAreRefused) {
  const auto refused = [](const std::function<void(LoadOptions&)>& change) {
    LoadOptions made = options();
    change(made);
    return test::status_of([&] { Runtime::load(test::bundle_path(), made); });
  };
  EXPECT_EQ(refused([](LoadOptions&) {}), AR_OK);
  EXPECT_EQ(refused([](LoadOptions& o) { o.version = "par-none"; }), AR_UNKNOWN_VERSION);
  EXPECT_EQ(refused([](LoadOptions& o) { o.target = LatencyTarget{40.0, {}, 95}; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](LoadOptions& o) { o.fallback_fastest = true; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](LoadOptions& o) { o.engine.device = "tpu"; }), AR_INPUT_INVALID);
  EXPECT_EQ(test::status_of([&] { Runtime::load("/nowhere", options()); }), AR_BUNDLE_ERROR);
}

TEST_F(Loading, WithoutATargetTheMostFaithfulIsTaken) {
  LoadOptions made = options();
  made.version.reset();
  const auto runtime = Runtime::load(test::bundle_path(), made);
  EXPECT_EQ(runtime->entry().pruning.version, "full");
  EXPECT_EQ(runtime->manifest(), test::read_file(test::manifest_path(test::bundle_path())));
}

// Returns a copy of the bundle in `folder` with `manifest` in place of its own.
std::string with_manifest(const std::filesystem::path& folder, const std::string& manifest) {
  std::filesystem::copy(test::bundle_path(), folder, std::filesystem::copy_options::recursive);
  const std::string name = "manifest-" + sha256_hex(manifest) + ".json";
  std::ofstream(folder / name) << manifest;
  std::ofstream(folder / "bundle.json", std::ios::trunc) << "{\"manifest\":\"" << name << "\"}";
  return folder.string();
}

// Returns the bundle's manifest with its entries changed.
std::string with_entries(const std::function<void(Plain&)>& change) {
  Plain manifest = Plain::parse(open_bundle(test::bundle_path()).json);
  for (Plain& entry : manifest["entries"]) change(entry);
  return manifest.dump();
}

class ByTarget : public Loading {
 protected:
  LoadOptions wanting(double ttft_ms) {
    LoadOptions made;
    made.engine.threads = 1;
    made.target = LatencyTarget{ttft_ms, {}, 95};
    return made;
  }
  // A bundle whose figures, 100 ms of `full` and 50 ms of `t2-l2`, are of this machine with one thread.
  std::string here() {
    const Machine here = backend(kOnnxRuntime).machine(wanting(1).engine);
    const Plain machine = {
        {"cpu", here.cpu}, {"cores", here.cores}, {"threads", here.threads}, {"backend", here.backend}};
    return with_manifest(cache_ / "here", with_entries([&](Plain& entry) { entry["latency"]["machine"] = machine; }));
  }
};

TEST_F(ByTarget, TheRecordedLatenciesOfThisMachineChoose) {
  const std::string bundle = here();
  EXPECT_EQ(Runtime::load(bundle, wanting(1000))->entry().pruning.version, "full");
  EXPECT_EQ(Runtime::load(bundle, wanting(60))->entry().pruning.version, "t2-l2");
  std::string message;
  EXPECT_EQ(test::status_of([&] { Runtime::load(bundle, wanting(10)); }, &message), AR_NO_ENGINE_MEETS_TARGET);
  EXPECT_NE(message.find("loosen the target"), std::string::npos) << message;
  LoadOptions fallback = wanting(10);
  fallback.fallback_fastest = true;
  EXPECT_EQ(Runtime::load(bundle, fallback)->entry().pruning.version, "t2-l2");
}

TEST_F(ByTarget, FiguresOfAnotherMachineOrOtherThreadsDoNotCount) {
  LoadOptions threads = wanting(1e6);
  threads.engine.threads = 2;
  threads.fallback_fastest = true;
  const std::pair<std::string, LoadOptions> cases[] = {{test::bundle_path(), wanting(1e6)}, {here(), threads}};
  for (const auto& [bundle, wanted] : cases) {
    std::string message;
    const auto load = [&bundle = bundle, &wanted = wanted] { Runtime::load(bundle, wanted); };
    EXPECT_EQ(test::status_of(load, &message), AR_NO_ENGINE_MEETS_TARGET);
    EXPECT_NE(message.find("not measured on this machine"), std::string::npos) << message;
    EXPECT_NE(message.find("allrounder calibrate"), std::string::npos) << message;
  }
}

TEST_F(ByTarget, SharedWeightsHaveNoRecordedLatencies) {
  LoadOptions shared = wanting(1e6);
  shared.engine.weights = Weights::kShared;
  EXPECT_EQ(test::status_of([&] { Runtime::load(test::bundle_path(), shared); }), AR_INPUT_INVALID);
}

TEST_F(Loading, EntriesOfOtherBackendsAreLeftAsideAndTheLogSaysWhy) {
  Entry other = open_bundle(test::bundle_path()).manifest.entries.front();
  other.backend = "abacus";
  Plain first;
  const std::string both = with_entries([&](Plain& entry) {
    if (first.is_null()) first = entry;
    if (entry["pruning"]["version"] == first["pruning"]["version"]) return;
    entry = first;
    entry["backend"] = "abacus";
  });
  std::string log;
  LoadOptions made = options(other.pruning.version);
  made.engine.log = [&](Level, const std::string& message) { log += message + "\n"; };
  const auto runtime = Runtime::load(with_manifest(cache_ / "both", both), made);
  EXPECT_EQ(runtime->entry().backend, kOnnxRuntime);
  EXPECT_NE(log.find(other.label() + ": left aside, this runtime cannot run it (this runtime cannot run engines of "
                                     "that backend; got: 'abacus'"),
            std::string::npos)
      << log;
  std::string message;
  const std::string alone = with_entries([](Plain& entry) { entry["backend"] = "abacus"; });
  const std::string path = with_manifest(cache_ / "alone", alone);
  EXPECT_EQ(test::status_of([&] { Runtime::load(path, made); }, &message), AR_ENGINE_UNAVAILABLE);
  EXPECT_NE(message.find("runs none of the bundle's engines"), std::string::npos) << message;
  EXPECT_NE(message.find("'abacus'"), std::string::npos) << message;
}

TEST_F(Loading, SharedWeightsAnswerTheSame) {
  LoadOptions shared = options("t2-l2");
  shared.engine.weights = Weights::kShared;
  const auto one = Runtime::load(test::bundle_path(), shared),
             other = Runtime::load(test::bundle_path(), options("t2-l2"));
  EXPECT_EQ(one->generate(request()).token_ids, other->generate(request()).token_ids);
}

TEST_F(Loading, SeveralRuntimesAtOnceFromSeveralThreads) {
  std::vector<std::future<std::vector<int64_t>>> answers;
  for (int thread = 0; thread < 8; ++thread) {
    answers.push_back(std::async(std::launch::async, [] {
      return Runtime::load(test::bundle_path(), options())->generate(request()).token_ids;
    }));
  }
  const std::vector<int64_t> wanted = answers.front().get();
  for (std::size_t index = 1; index < answers.size(); ++index) EXPECT_EQ(answers[index].get(), wanted);
}

}  // namespace
}  // namespace ar
