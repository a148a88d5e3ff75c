// The CUDA kernel's own source, run on the host: its arithmetic and its indices, not its speed.
#include "cuda_words.hpp"
// after the words that it uses
#include <gtest/gtest.h>

#include "cases.hpp"
#include "gather/gather_kernel.cuh"

namespace ar::gather::testing {
namespace {

template <typename Unit, int kThreads>
Outputs run_kernel(const Case& c, const Inputs& in, unsigned blocks) {
  const Shape shape = c.shape();
  const Choice choice = choose(shape, in.candidates());
  EXPECT_EQ(choice.error, "") << c;
  const std::vector<std::int32_t> sources(choice.rows.begin(), choice.rows.end());
  const std::size_t row_bytes = static_cast<std::size_t>(shape.hidden) * c.element_bytes;
  std::vector<Unit> hidden(in.hidden.size() / sizeof(Unit));
  std::copy_n(in.hidden.data(), hidden.size() * sizeof(Unit), reinterpret_cast<std::byte*>(hidden.data()));
  Outputs out = room(c, static_cast<std::int64_t>(choice.keep.size()));
  out.keep = choice.keep;  // the host's
  std::vector<Unit> gathered(out.gathered.size() / sizeof(Unit));
  const Launch<Unit> launch{hidden.data(),
                            in.position_ids.data(),
                            shape.tokens == 0 ? nullptr : sources.data(),
                            gathered.data(),
                            out.position_ids.data(),
                            shape.batch * shape.rows,
                            shape.batch * kept_rows(shape, choice),
                            shape.axes,
                            static_cast<int>(row_bytes / sizeof(Unit)),
                            blocks};
  cuda_words::run(blocks, kThreads, [&launch] { token_gather<Unit, kThreads>(launch); }, c.seed);
  std::copy_n(reinterpret_cast<const std::byte*>(gathered.data()), out.gathered.size(), out.gathered.data());
  return out;
}

template <typename Unit, int kThreads>
void expect_reference(const Case& c) {
  if (static_cast<std::size_t>(c.hidden) * c.element_bytes % sizeof(Unit) != 0) return;
  const Inputs in = make_inputs(c);
  const Outputs wanted = reference(c, in);
  for (const unsigned blocks : {1u, 3u, 8u}) {
    ASSERT_TRUE((run_kernel<Unit, kThreads>(c, in, blocks)) == wanted) << c << " blocks=" << blocks;
  }
}

TEST(GatherKernel, EqualsTheReferenceBitForBit) {
  for (const Case& c : all_cases(700)) expect_reference<std::uint16_t, 64>(c);
}

TEST(GatherKernel, WiderUnitsMoveTheSameBytes) {
  for (const std::int64_t hidden : {0, 8, 1024}) {
    for (const unsigned seed : {10u, 11u}) {
      const Case c{{70, 30}, {19, 30}, 12, hidden, 2, Scores::kTied, seed, 1, 3};
      expect_reference<uint4, 64>(c);
      expect_reference<std::uint32_t, 64>(c);
      expect_reference<std::uint8_t, 64>(c);
    }
  }
}

TEST(GatherKernel, WithAsManyThreadsAsOnADevice) {
  expect_reference<uint4, 512>({{576, 576}, {144, 144}, 60, 8, 2, Scores::kRandom, 13});
  expect_reference<uint4, 512>({{}, {}, 1, 4096, 2, Scores::kRandom, 14, 8});
}

}  // namespace
}  // namespace ar::gather::testing
