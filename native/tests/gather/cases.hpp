// The cases of allrounder::TokenGather that the tests of every kernel share, and the rule written naively.
//
// What it is: shapes, scores with ties and odd values, inputs made of them, and a reference by stable sort that shares
// no code with the kernels. What it does not know: which kernel is tested.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "gather/gather.hpp"

namespace ar::gather::testing {

// How scores are drawn.
enum class Scores { kRandom, kTied, kOdd, kEqual, kUnordered, kAscending, kCloseBits, kHalves };
inline constexpr Scores kAllScores[] = {Scores::kRandom,    Scores::kTied,      Scores::kOdd,       Scores::kEqual,
                                        Scores::kUnordered, Scores::kAscending, Scores::kCloseBits,
                                        Scores::kHalves};

struct Case {
  Shape shape;
  std::size_t element_bytes;
  Scores scores;
  unsigned seed = 0;
};

inline std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "[" << c.shape.batch << "," << c.shape.tokens << "," << c.shape.hidden << "] k=" << c.shape.keep
             << " element_bytes=" << c.element_bytes << " scores=" << static_cast<int>(c.scores) << " seed=" << c.seed;
}

struct Inputs {
  std::vector<std::byte> hidden;
  std::vector<float> scores;
  std::vector<std::int64_t> positions;
};

struct Outputs {
  std::vector<std::byte> gathered;
  std::vector<std::int64_t> positions;
  std::vector<std::int64_t> keep;

  explicit Outputs(const Case& c)
      : gathered(static_cast<std::size_t>(c.shape.batch * c.shape.keep * c.shape.hidden) * c.element_bytes),
        positions(static_cast<std::size_t>(c.shape.batch * c.shape.keep)),
        keep(positions.size()) {}

  bool operator==(const Outputs& other) const {
    return gathered == other.gathered && positions == other.positions && keep == other.keep;
  }
};

inline Tensors tensors(const Inputs& in, Outputs* out) {
  return {in.hidden.data(),     in.scores.data(),      in.positions.data(),
          out->gathered.data(), out->positions.data(), out->keep.data()};
}

inline float draw_score(Scores kind, std::int64_t token, std::mt19937* random) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  static const float odd[] = {std::numeric_limits<float>::quiet_NaN(),
                              -std::numeric_limits<float>::quiet_NaN(),
                              -kInf,
                              kInf,
                              -0.0f,
                              0.0f,
                              std::numeric_limits<float>::max(),
                              std::numeric_limits<float>::lowest(),
                              std::numeric_limits<float>::denorm_min(),
                              -std::numeric_limits<float>::denorm_min(),
                              1.5f,
                              -1.5f};
  switch (kind) {
    case Scores::kRandom: return std::normal_distribution<float>(0, 3)(*random);
    case Scores::kTied: return static_cast<float>(std::uniform_int_distribution<int>(-2, 2)(*random));
    case Scores::kOdd: return odd[std::uniform_int_distribution<std::size_t>(0, std::size(odd) - 1)(*random)];
    case Scores::kEqual: return 0.25f;
    case Scores::kUnordered: return std::bernoulli_distribution(0.5)(*random) ? std::nanf("") : -kInf;
    case Scores::kAscending: return static_cast<float>(token);
    case Scores::kCloseBits:  // four neighbours of 1, or of -1
      return (std::bernoulli_distribution(0.5)(*random) ? 1.0f : -1.0f) *
             (1.0f + std::ldexp(static_cast<float>(std::uniform_int_distribution<int>(0, 3)(*random)), -23));
    case Scores::kHalves: return token % 2 == 0 ? 2.5f : 1.0f;  // whose highest digits are neighbours
  }
  return 0;
}

inline Inputs make_inputs(const Case& c) {
  std::mt19937 random(c.seed);
  Inputs in;
  in.hidden.resize(static_cast<std::size_t>(c.shape.batch * c.shape.tokens * c.shape.hidden) * c.element_bytes);
  for (std::byte& byte : in.hidden) byte = static_cast<std::byte>(random());
  for (std::int64_t i = 0; i < c.shape.batch * c.shape.tokens; ++i) {
    in.scores.push_back(draw_score(c.scores, i % c.shape.tokens, &random));
    in.positions.push_back(static_cast<std::int64_t>(random()) * (1 + static_cast<std::int64_t>(random() % 1000)));
  }
  return in;
}

// The rule, sentence by sentence: NaN counts as -inf, best first with ties to the lower index, the first k, ascending.
inline std::vector<std::int64_t> reference_keep(const float* scores, std::int64_t tokens, std::int64_t k) {
  std::vector<float> ordered(scores, scores + tokens);
  for (float& score : ordered) {
    if (std::isnan(score)) score = -std::numeric_limits<float>::infinity();
  }
  std::vector<std::int64_t> indices(ordered.size());
  std::iota(indices.begin(), indices.end(), 0);
  std::stable_sort(indices.begin(), indices.end(), [&ordered](std::int64_t a, std::int64_t b) {
    return ordered[static_cast<std::size_t>(a)] > ordered[static_cast<std::size_t>(b)];
  });
  indices.resize(static_cast<std::size_t>(k));
  std::sort(indices.begin(), indices.end());
  return indices;
}

inline Outputs reference(const Case& c, const Inputs& in) {
  Outputs out(c);
  const std::size_t row_bytes = static_cast<std::size_t>(c.shape.hidden) * c.element_bytes;
  std::size_t place = 0;
  for (std::int64_t row = 0; row < c.shape.batch; ++row) {
    const float* scores = in.scores.data() + row * c.shape.tokens;
    for (const std::int64_t token : reference_keep(scores, c.shape.tokens, c.shape.keep)) {
      const auto from = static_cast<std::size_t>(row * c.shape.tokens + token);
      out.keep[place] = token;
      out.positions[place] = in.positions[from];
      for (std::size_t byte = 0; byte < row_bytes; ++byte) {
        out.gathered[place * row_bytes + byte] = in.hidden[from * row_bytes + byte];
      }
      ++place;
    }
  }
  return out;
}

// Every (batch, N, k, hidden, dtype, scores) that is worth a run of its own; `max_tokens` leaves out what is too slow.
inline std::vector<Case> all_cases(std::int64_t max_tokens) {
  std::vector<Case> cases;
  const auto add = [&](std::int64_t batch, std::int64_t tokens, std::int64_t k, std::int64_t hidden) {
    if (tokens > max_tokens || k < 1 || k > tokens) return;
    for (const std::size_t bytes : {std::size_t{2}, std::size_t{4}}) {
      for (const Scores scores : kAllScores) {
        cases.push_back({{batch, tokens, k, hidden}, bytes, scores, static_cast<unsigned>(cases.size())});
      }
    }
  };
  for (const std::int64_t tokens : {1, 2, 7, 31, 33, 64, 576}) {
    for (const std::int64_t k : {std::int64_t{1}, tokens / 4, (tokens + 1) / 2, tokens}) add(1, tokens, k, 3);
  }
  for (const std::int64_t hidden : {0, 1, 8, 9, 16, 63, 1024}) add(3, 20, 7, hidden);
  for (const std::int64_t batch : {0, 2, 5}) add(batch, 12, 5, 4);
  add(1, 576, 144, 64);
  add(2, 2880, 640, 32);
  add(1, 5000, 2500, 2);
  return cases;
}

}  // namespace ar::gather::testing
