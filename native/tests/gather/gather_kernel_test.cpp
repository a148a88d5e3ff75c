// The CUDA kernel's own source, run on the host: its arithmetic, its indices and its barriers, not its speed.
#include "cuda_words.hpp"
// after the words that it uses
#include <gtest/gtest.h>

#include <cstring>

#include "cases.hpp"
#include "gather/gather_kernel.cuh"

namespace ar::gather::testing {
namespace {

std::uint32_t bits_of(float score) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return bits;
}

template <typename Unit, int kThreads>
Outputs run_kernel(const Case& c, const Inputs& in, int parts) {
  std::vector<std::uint32_t> bits(in.scores.size());
  std::transform(in.scores.begin(), in.scores.end(), bits.begin(), bits_of);
  const std::size_t row_bytes = static_cast<std::size_t>(c.shape.hidden) * c.element_bytes;
  std::vector<Unit> hidden(in.hidden.size() / sizeof(Unit));
  std::copy_n(in.hidden.data(), hidden.size() * sizeof(Unit), reinterpret_cast<std::byte*>(hidden.data()));
  Outputs out(c);
  std::vector<Unit> gathered(out.gathered.size() / sizeof(Unit));
  const Launch<Unit> launch{bits.data(),
                            in.positions.data(),
                            hidden.data(),
                            gathered.data(),
                            out.positions.data(),
                            out.keep.data(),
                            static_cast<int>(c.shape.tokens),
                            static_cast<int>(c.shape.keep),
                            static_cast<int>(row_bytes / sizeof(Unit)),
                            parts};
  cuda_words::run(static_cast<unsigned>(c.shape.batch) * static_cast<unsigned>(parts), kThreads,
                  [&launch] { token_gather<Unit, kThreads>(launch); }, c.seed);
  std::copy_n(reinterpret_cast<const std::byte*>(gathered.data()), out.gathered.size(), out.gathered.data());
  return out;
}

// Every division of the output among blocks that is worth a run: one block, some, one a row.
std::vector<int> divisions(const Case& c) {
  std::vector<int> parts;
  for (const std::int64_t wanted : {std::int64_t{1}, std::int64_t{3}, c.shape.keep}) {
    const std::int64_t least = (c.shape.keep + kMaxShare - 1) / kMaxShare;
    const int value = static_cast<int>(std::clamp(wanted, least, std::min<std::int64_t>(c.shape.keep, 8)));
    if (parts.empty() || parts.back() != value) parts.push_back(value);
  }
  return parts;
}

template <typename Unit, int kThreads>
void expect_reference(const Case& c) {
  if (static_cast<std::size_t>(c.shape.hidden) * c.element_bytes % sizeof(Unit) != 0) return;
  const Inputs in = make_inputs(c);
  const Outputs wanted = reference(c, in);
  for (const int parts : divisions(c)) {
    ASSERT_TRUE((run_kernel<Unit, kThreads>(c, in, parts)) == wanted) << c << " parts=" << parts;
  }
}

TEST(GatherKernel, EqualsTheReferenceBitForBit) {
  const std::vector<Case> cases = all_cases(100);
  // A fifth of them, of every kind: 5 divides neither the number of score patterns nor that of dtypes.
  for (std::size_t i = 0; i < cases.size(); i += 5) expect_reference<std::uint16_t, 64>(cases[i]);
}

TEST(GatherKernel, WiderUnitsMoveTheSameBytes) {
  for (const std::int64_t hidden : {0, 8, 1024}) {
    for (const Scores scores : {Scores::kRandom, Scores::kTied, Scores::kOdd}) {
      const Case c{{2, 70, 19, hidden}, 2, scores, 11};
      expect_reference<uint4, 64>(c);
      expect_reference<std::uint32_t, 64>(c);
      expect_reference<std::uint8_t, 64>(c);
    }
  }
}

TEST(GatherKernel, ManyRoundsAndTiesAcrossThem) {
  for (const Scores scores : kAllScores) expect_reference<std::uint32_t, 64>({{1, 1500, 1100, 4}, 2, scores, 12});
}

TEST(GatherKernel, WithAsManyThreadsAsOnADevice) {
  for (const Scores scores : kAllScores) expect_reference<uint4, 512>({{1, 576, 144, 8}, 2, scores, 13});
}

}  // namespace
}  // namespace ar::gather::testing
