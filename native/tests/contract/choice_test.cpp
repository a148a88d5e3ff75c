// The pure choice: total order, targets, fallback, monotony.
#include "contract/choice.hpp"

#include <cmath>
#include <limits>
#include <random>

#include "scratch.hpp"

namespace {

using ar::choose;
using ar::Entry;
using ar::LatencyTarget;
using scratch::refused;
using Order = std::vector<std::size_t>;

const ar::Machine kHere{"here", 2, 2, "onnxruntime 1", "", ""};
const ar::Machine kThere{"there", 2, 2, "onnxruntime 1", "", ""};

struct Made {
  std::string version = "par-lite";
  std::optional<double> kl = std::nullopt;
  int64_t tokens = 144;
  std::string precision = "fp32";
  std::optional<std::pair<double, double>> figures = std::nullopt;  // TTFT and TPOT
  ar::Machine machine = kHere;
};

Entry make(const Made& made) {
  Entry entry;
  entry.pruning.version = made.version, entry.backend = "onnxruntime", entry.precision = made.precision;
  entry.pruning.prune_layer = 1, entry.pruning.layer_policy = "static", entry.pruning.keep = {made.tokens, 1},
  entry.pruning.layers = 24;
  if (made.kl) entry.fidelity.emplace().kl = *made.kl;
  if (made.figures) {
    ar::Latency& latency = entry.latency.emplace();
    latency.ttft_ms = {made.figures->first, made.figures->first, made.figures->first};
    latency.tpot_ms = {made.figures->second, made.figures->second, made.figures->second};
    latency.machine = made.machine;
  }
  return entry;
}

std::vector<Entry> entries(const std::vector<Made>& made) {
  std::vector<Entry> all;
  for (const Made& each : made) all.push_back(make(each));
  return all;
}

Order order(const std::vector<Made>& made) { return ar::by_faithfulness(entries(made)); }

TEST(Choice, FullComesFirstEvenWhereNoiseGivesAnotherALowerKl) {
  EXPECT_EQ(order({{"par-lite", 0.01}, {"full", 0.02, 576}}), (Order{1, 0}));
}

TEST(Choice, ThenTheLowestKlThenTheBudgetThenThePrecisionThenTheOrderGiven) {
  EXPECT_EQ(order({{"a", 0.2}, {"a", 0.1, 10}}), (Order{1, 0}));
  EXPECT_EQ(order({{"a", 0.1, 10}, {"a", 0.1}}), (Order{1, 0}));
  EXPECT_EQ(order({{"a", 0.1, 144, "fp16"}, {"a", 0.1}}), (Order{1, 0}));
  EXPECT_EQ(order({{"a", 0.1, 144, "bf16"}, {"a", 0.1, 144, "fp16"}}), (Order{1, 0}));
  EXPECT_EQ(order({{"b", 0.1}, {"a", 0.1}}), (Order{0, 1}));
  EXPECT_EQ(order({{"b", 0.0}, {"a", -0.0}}), (Order{0, 1}));
}

TEST(Choice, FullOfTheLowerPrecisionRanksByItsOwnKl) {
  EXPECT_EQ(order({{"full", 0.3, 576, "fp16"}, {"par-max", 0.1}, {"full", 0.0, 576}}), (Order{2, 1, 0}));
}

TEST(Choice, WithoutFidelityComesLastByBudget) {
  EXPECT_EQ(order({{"a", {}, 10}, {"b", {}, 20}, {"par-lite", 9.0}}), (Order{2, 1, 0}));
  EXPECT_EQ(order({{"b", {}, 20}, {"par-lite", 9.0}, {"full", {}, 576}}), (Order{2, 1, 0}));
}

TEST(Choice, BudgetsOfAnySizeAreCompared) {
  std::vector<Entry> huge = entries({{"a"}, {"b"}});
  huge[0].pruning.layers = std::numeric_limits<int64_t>::max();
  huge[1].pruning.layers = 3;
  EXPECT_EQ(ar::by_faithfulness(huge), (Order{0, 1}));
  std::swap(huge[0], huge[1]);
  EXPECT_EQ(ar::by_faithfulness(huge), (Order{1, 0}));
}

TEST(Choice, WithoutATargetTheMostFaithfulMeasuredOrNot) {
  EXPECT_EQ(choose(entries({{"par-lite", 0.1, 144, "fp32", {{1, 1}}}, {"full", {}, 576}}), std::nullopt), 1u);
  refused(AR_INPUT_INVALID, "no entry", [] { choose({}, std::nullopt); });
}

const std::vector<Made> kThree = {{"full", {}, 144, "fp32", {{100, 10}}},
                                  {"par-lite", 0.1, 144, "fp32", {{50, 7}}},
                                  {"par-nano", 0.2, 144, "fp32", {{40, 6}}}};

TEST(Choice, ATargetTakesTheMostFaithfulThatMeetsAllOfIt) {
  EXPECT_EQ(choose(entries(kThree), LatencyTarget{100, {}}, &kHere), 0u);
  EXPECT_EQ(choose(entries(kThree), LatencyTarget{99, {}}, &kHere), 1u);
  EXPECT_EQ(choose(entries(kThree), LatencyTarget{45, {}}, &kHere), 2u);
  EXPECT_EQ(choose(entries(kThree), LatencyTarget{100, 6.5}, &kHere), 2u);
  EXPECT_EQ(choose(entries(kThree), LatencyTarget{{}, 10}), 0u);
}

TEST(Choice, ThePercentileIsTheTargets) {
  std::vector<Entry> tail = entries({{"a", {}, 144, "fp32", {{10, 1}}}});
  tail[0].latency->ttft_ms = {10, 20, 30};
  EXPECT_EQ(choose(tail, LatencyTarget{10, {}, 50}, &kHere), 0u);
  EXPECT_EQ(choose(tail, LatencyTarget{20, {}}, &kHere), 0u);
  refused(AR_NO_ENGINE_MEETS_TARGET, "p99", [&] { choose(tail, LatencyTarget{20, {}, 99}, &kHere); });
}

TEST(Choice, NoneMeetsItAndTheMessageIsTheTable) {
  std::vector<Made> made = kThree;
  made[1].machine = kThere;
  made[2].figures.reset();
  const std::string message = refused(AR_NO_ENGINE_MEETS_TARGET, "ttft <= 9 ms at p95; remedy: loosen",
                                      [&] { choose(entries(made), LatencyTarget{9, {}}, &kHere); });
  const std::string table =
      "  full (onnxruntime, fp32, static, K=1)      ttft    100.00 ms  tpot    10.00 ms  (p95)\n"
      "  par-lite (onnxruntime, fp32, static, K=1)  not measured on this machine\n"
      "  par-nano (onnxruntime, fp32, static, K=1)  not measured on this machine\n";
  EXPECT_NE(message.find("no engine meets the target\n" + table), std::string::npos) << message;
}

TEST(Choice, TheFallbackIsExplicitAndTakesTheNearestMeasured) {
  std::vector<Made> made = kThree;
  made[2].figures.reset();
  EXPECT_EQ(choose(entries(made), LatencyTarget{9, {}}, &kHere, true), 1u);
  made[2].figures = made[1].figures;
  EXPECT_EQ(choose(entries(made), LatencyTarget{9, {}}, &kHere, true), 1u);  // of equals the more faithful
  made[2].figures.reset();
  const std::vector<Entry> unmeasured = entries({made[2]});
  refused(AR_NO_ENGINE_MEETS_TARGET, "allrounder calibrate", [&] {
    choose(unmeasured, LatencyTarget{9, {}}, &kHere, true);
  });
}

TEST(Choice, ImpossibleTargetsAreRefused) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  for (const LatencyTarget& target :
       {LatencyTarget{}, LatencyTarget{0.0, {}}, LatencyTarget{-1.0, {}}, LatencyTarget{{}, nan},
        LatencyTarget{{}, inf}, LatencyTarget{40.0, {}, 90}, LatencyTarget{40.0, -inf}})
    refused(AR_INPUT_INVALID, "", [&] { choose(entries(kThree), target, &kHere); });
}

TEST(Choice, TargetsAsText) {
  EXPECT_EQ((LatencyTarget{40, 2.5, 99}.text()), "ttft <= 40 ms and tpot <= 2.5 ms at p99");
  EXPECT_EQ((LatencyTarget{{}, 1e6}.text()), "tpot <= 1e+06 ms at p95");
}

// Entries and targets drawn at random, many of them alike.
class RandomChoice : public testing::Test {
 protected:
  double number(double most) { return std::uniform_real_distribution<double>(0.5, most)(random_); }
  bool coin() { return (random_() & 1) != 0; }
  std::vector<Entry> draw() {
    std::vector<Made> made(1 + random_() % 7);
    for (Made& each : made) {
      each.version = std::vector<std::string>{"full", "par-max", "par-lite"}[random_() % 3];
      if (coin()) each.kl = static_cast<double>(random_() % 4) / 4;
      each.tokens = static_cast<int64_t>(1 + random_() % 576);
      if (coin()) each.precision = coin() ? "fp16" : "bf16";
      if (random_() % 4 > 0) each.figures = {number(500), number(500)};
      if (random_() % 3 == 0) each.machine = kThere;
    }
    return entries(made);
  }
  std::mt19937_64 random_{11};
};

TEST_F(RandomChoice, ALooserTargetNeverGivesALessFaithfulEntry) {
  int chosen = 0;
  for (int round = 0; round < 20'000; ++round) {
    const std::vector<Entry> drawn = draw();
    const LatencyTarget tight{number(500), number(500)};
    const LatencyTarget loose{*tight.ttft_ms + number(500), *tight.tpot_ms + number(500)};
    const Order ranked = ar::by_faithfulness(drawn);
    const auto place = [&](std::size_t index) { return std::find(ranked.begin(), ranked.end(), index); };
    try {
      const std::size_t first = choose(drawn, tight, &kHere);
      ++chosen;
      EXPECT_LE(drawn[first].latency->ttft_ms.p95, *tight.ttft_ms);
      EXPECT_LE(drawn[first].latency->tpot_ms.p95, *tight.tpot_ms);
      EXPECT_LE(place(choose(drawn, loose, &kHere)), place(first));
    } catch (const ar::Error& error) {
      ASSERT_EQ(error.status(), AR_NO_ENGINE_MEETS_TARGET);
      for (const Entry& entry : drawn) {
        EXPECT_FALSE(entry.latency && entry.latency->machine == kHere && entry.latency->ttft_ms.p95 <= *tight.ttft_ms &&
                     entry.latency->tpot_ms.p95 <= *tight.tpot_ms);
      }
    }
  }
  EXPECT_GT(chosen, 1000);
}

TEST_F(RandomChoice, FaithfulnessIsOneTotalOrderThatPutsFullFirstAtItsPrecision) {
  for (int round = 0; round < 5'000; ++round) {
    const std::vector<Entry> drawn = draw();
    const Order ranked = ar::by_faithfulness(drawn);
    Order sorted = ranked;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i) ASSERT_EQ(sorted[i], i);
    for (std::size_t i = 0; i < ranked.size(); ++i) {
      for (std::size_t j = i + 1; j < ranked.size(); ++j) {
        const Entry &earlier = drawn[ranked[i]], &later = drawn[ranked[j]];
        const bool first = earlier.pruning.version == "full", second = later.pruning.version == "full";
        EXPECT_FALSE(second && !first && earlier.precision == later.precision);
        if (first || second || !later.fidelity) continue;
        ASSERT_TRUE(earlier.fidelity);
        EXPECT_LE(earlier.fidelity->kl, later.fidelity->kl);
      }
    }
  }
}

}  // namespace
