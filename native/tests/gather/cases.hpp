// The cases of allrounder::TokenGather that the tests of every kernel share, and the rule written naively.
//
// What it is: shapes, scores with ties and odd values, inputs made of them, and a reference by stable sort that shares
// no code with the kernels. What it does not know: which kernel is tested.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
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

// One call. S is the number of all image tokens and `text` rows among them.
struct Case {
  std::vector<std::int64_t> tokens_of;    // N_i, tokens of each image
  std::vector<std::int64_t> keep_counts;  // T_i
  std::int64_t text = 0;
  std::int64_t hidden = 1;
  std::size_t element_bytes = 4;
  Scores scores = Scores::kRandom;
  unsigned seed = 0;
  std::int64_t batch = 1;
  std::int64_t axes = 1;

  std::int64_t tokens() const { return std::accumulate(tokens_of.begin(), tokens_of.end(), std::int64_t{0}); }
  Shape shape() const {
    const auto images = static_cast<std::int64_t>(tokens_of.size());
    return {batch, tokens() + text, hidden, axes, tokens(), images};
  }
};

inline std::ostream& operator<<(std::ostream& out, const Case& c) {
  out << "images";
  for (std::size_t i = 0; i < c.tokens_of.size(); ++i) out << " " << c.keep_counts[i] << "/" << c.tokens_of[i];
  return out << " text=" << c.text << " batch=" << c.batch << " axes=" << c.axes << " hidden=" << c.hidden
             << " element_bytes=" << c.element_bytes << " scores=" << static_cast<int>(c.scores) << " seed=" << c.seed;
}

struct Inputs {
  std::vector<std::byte> hidden;
  std::vector<std::int64_t> position_ids;
  std::vector<float> scores;
  std::vector<std::int64_t> image_index;
  std::vector<std::int64_t> image_of;
  std::vector<std::int64_t> keep_counts;

  Candidates candidates() const { return {scores.data(), image_index.data(), image_of.data(), keep_counts.data()}; }
};

struct Outputs {
  std::vector<std::byte> gathered;
  std::vector<std::int64_t> position_ids;
  std::vector<std::int64_t> keep;

  bool operator==(const Outputs& other) const {
    return gathered == other.gathered && position_ids == other.position_ids && keep == other.keep;
  }
};

// Outputs of the right sizes, filled with what is in none.
inline Outputs room(const Case& c, std::int64_t kept) {
  const Shape shape = c.shape();
  const auto rows = static_cast<std::size_t>(c.batch * (shape.rows - shape.tokens + kept));
  return {std::vector<std::byte>(rows * static_cast<std::size_t>(c.hidden) * c.element_bytes, std::byte{0xee}),
          std::vector<std::int64_t>(rows * static_cast<std::size_t>(c.axes), -7),
          std::vector<std::int64_t>(static_cast<std::size_t>(kept), -7)};
}

inline Tensors tensors(const Inputs& in, Outputs* out) {
  return {in.hidden.data(), in.position_ids.data(), out->gathered.data(), out->position_ids.data(), out->keep.data()};
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

// Rows and positions are all different; images stand in random rows, and every second seed mixes their tokens.
inline Inputs make_inputs(const Case& c) {
  std::mt19937 random(c.seed);
  const Shape shape = c.shape();
  Inputs in;
  in.hidden.resize(static_cast<std::size_t>(c.batch * shape.rows * c.hidden) * c.element_bytes);
  for (std::byte& byte : in.hidden) byte = static_cast<std::byte>(random());
  for (std::int64_t i = 0; i < c.axes * c.batch * shape.rows; ++i) {
    in.position_ids.push_back(static_cast<std::int64_t>(random()) * (1 + static_cast<std::int64_t>(random() % 1000)));
  }
  for (std::int64_t i = 0; i < shape.tokens; ++i) in.scores.push_back(draw_score(c.scores, i, &random));
  std::vector<std::int64_t> rows(static_cast<std::size_t>(shape.rows));
  std::iota(rows.begin(), rows.end(), 0);
  std::sample(rows.begin(), rows.end(), std::back_inserter(in.image_index), shape.tokens, random);
  for (std::size_t image = 0; image < c.tokens_of.size(); ++image) {
    in.image_of.insert(in.image_of.end(), static_cast<std::size_t>(c.tokens_of[image]),
                       static_cast<std::int64_t>(image));
  }
  if (c.seed % 2 == 1) std::shuffle(in.image_of.begin(), in.image_of.end(), random);
  in.keep_counts = c.keep_counts;
  return in;
}

// The rule, sentence by sentence: NaN counts as -inf, best first with ties to the lower index, the first T_i of each
// image, ascending.
inline std::vector<std::int64_t> reference_keep(const Inputs& in) {
  std::vector<float> ordered = in.scores;
  for (float& score : ordered) {
    if (std::isnan(score)) score = -std::numeric_limits<float>::infinity();
  }
  std::vector<std::int64_t> indices(ordered.size());
  std::iota(indices.begin(), indices.end(), 0);
  std::stable_sort(indices.begin(), indices.end(), [&ordered](std::int64_t a, std::int64_t b) {
    return ordered[static_cast<std::size_t>(a)] > ordered[static_cast<std::size_t>(b)];
  });
  std::vector<std::int64_t> left = in.keep_counts;
  std::vector<std::int64_t> keep;
  for (const std::int64_t token : indices) {
    const auto image = static_cast<std::size_t>(in.image_of[static_cast<std::size_t>(token)]);
    if (left[image]-- > 0) keep.push_back(token);
  }
  std::sort(keep.begin(), keep.end());
  return keep;
}

inline Outputs reference(const Case& c, const Inputs& in) {
  const Shape shape = c.shape();
  const std::vector<std::int64_t> keep = reference_keep(in);
  std::vector<bool> stays(static_cast<std::size_t>(shape.rows), true);
  for (const std::int64_t row : in.image_index) stays[static_cast<std::size_t>(row)] = false;
  for (const std::int64_t token : keep) {
    stays[static_cast<std::size_t>(in.image_index[static_cast<std::size_t>(token)])] = true;
  }
  Outputs out{{}, {}, keep};
  const std::size_t row_bytes = static_cast<std::size_t>(c.hidden) * c.element_bytes;
  for (std::size_t place = 0; place < static_cast<std::size_t>(c.batch * shape.rows); ++place) {
    if (!stays[place % stays.size()]) continue;
    const auto from = in.hidden.begin() + static_cast<std::ptrdiff_t>(place * row_bytes);
    out.gathered.insert(out.gathered.end(), from, from + static_cast<std::ptrdiff_t>(row_bytes));
  }
  for (std::size_t place = 0; place < in.position_ids.size(); ++place) {
    if (stays[place % stays.size()]) out.position_ids.push_back(in.position_ids[place]);
  }
  return out;
}

// Every (images, counts, text, hidden, dtype, scores) that is worth a run of its own; `max_rows` leaves out what is too
// slow.
inline std::vector<Case> all_cases(std::int64_t max_rows) {
  std::vector<Case> cases;
  const auto add = [&](std::vector<std::int64_t> tokens_of, std::vector<std::int64_t> counts, std::int64_t text,
                       std::int64_t hidden, std::int64_t batch = 1, std::int64_t axes = 1) {
    for (const std::size_t bytes : {std::size_t{2}, std::size_t{4}}) {
      for (const Scores scores : kAllScores) {
        const Case c{tokens_of, counts, text,  hidden, bytes, scores, static_cast<unsigned>(cases.size()),
                     batch,     axes};
        if (c.shape().rows <= max_rows) cases.push_back(c);
      }
    }
  };
  for (const std::int64_t tokens : {1, 2, 7, 31, 33, 64, 576}) {
    for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, tokens / 4, tokens}) add({tokens}, {k}, 9, 3);
  }
  for (const std::int64_t hidden : {0, 1, 8, 9, 16, 63, 1024}) add({20, 11}, {7, 11}, 5, hidden);
  for (const std::int64_t batch : {0, 1, 2, 5}) add({}, {}, 3, 4, batch, 3);
  add({}, {}, 0, 4);
  add({0}, {0}, 2, 4, 2);
  add({12}, {5}, 0, 4, 1, 0);
  add({12, 0, 30, 7}, {12, 0, 1, 0}, 10, 4, 1, 3);
  add({576, 576}, {144, 144}, 60, 64, 1, 3);
  add({2880, 100}, {640, 50}, 70, 32);
  return cases;
}

}  // namespace ar::gather::testing
