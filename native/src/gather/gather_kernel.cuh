// The device code of allrounder::TokenGather.
//
// What it is: one kernel. `parts` blocks share a row of the batch; each finds the row's threshold for itself, which is
// cheaper than a second launch and needs no memory, compacts the row up to its own share of the output, and copies that
// share. What it knows: the rule (rule.hpp) and CUDA's terms. What it does not know: how large a grid is, which the
// host decides. native/tests/gather/ compiles this file for the host too and runs it there, thread by thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gather/rule.hpp"

namespace ar::gather {

inline constexpr int kWarp = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;
inline constexpr int kMaxShare = 1024;  // rows of the output that one block writes
inline constexpr int kInFlight = 4;     // units that a thread loads before it stores the first

// Pointers of one launch. `Unit` is what a thread moves at once; `units` of them make a row.
template <typename Unit>
struct Launch {
  const std::uint32_t* score_bits;   // [B, tokens]
  const std::int64_t* positions;     // [B, tokens]
  const Unit* hidden;                // [B, tokens, units]
  Unit* gathered;                    // [B, keep, units]
  std::int64_t* gathered_positions;  // [B, keep]
  std::int64_t* keep_indices;           // [B, keep]
  int tokens;
  int keep;
  int units;
  int parts;
};

// Where in the histogram the `wanted`-th best key lies.
struct Bucket {
  int digit;
  int wanted;  // of this bucket
  int count;   // keys in this bucket
};

// Finds the bucket of the `wanted`-th best among `counts` [kDigits]. One warp; one of its lanes writes the answer.
__device__ inline void find_bucket(const int* counts, int wanted, Bucket* found) {
  constexpr int kPerLane = kDigits / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int top = kDigits - 1 - lane * kPerLane;  // lane 0 holds the best digits
  int own = 0;
  for (int i = 0; i < kPerLane; ++i) own += counts[top - i];
  int better = own;
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kWholeWarp, better, static_cast<unsigned>(step));
    if (lane >= step) better += other;
  }
  better -= own;  // keys in the digits of the lanes before
  if (better >= wanted || better + own < wanted) return;
  int place = top;
  for (; better + counts[place] < wanted; --place) better += counts[place];
  *found = {place, wanted - better, counts[place]};
}

// Radix select, the highest digit first. All threads of the block get the same answer.
template <int kThreads>
__device__ Threshold find_threshold(const std::uint32_t* score_bits, int tokens, int keep) {
  static_assert(kThreads % kWarp == 0, "whole warps");
  __shared__ int counts[kDigits];
  __shared__ Bucket found;
  const int thread = static_cast<int>(threadIdx.x);
  std::uint32_t prefix = 0;
  for (int shift = kKeyBits - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int i = thread; i < kDigits; i += kThreads) counts[i] = 0;
    __syncthreads();
    for (int i = thread; i < tokens; i += kThreads) {
      const std::uint32_t key = score_key(score_bits[i]);
      if (same_above(key, prefix, shift)) atomicAdd(&counts[digit(key, shift)], 1);
    }
    __syncthreads();
    if (thread < kWarp) find_bucket(counts, keep, &found);
    __syncthreads();
    prefix |= static_cast<std::uint32_t>(found.digit) << shift;
    keep = found.wanted;
    if (found.count == found.wanted) return {prefix, 0};  // the whole bucket: no tie is broken
  }
  return {prefix + 1, keep};  // no overflow: the best key is that of +inf
}

// Puts into `sources` the tokens that the output rows [first, last) come from, in ascending order, and writes their
// indices and positions out. A token's row in the output is the number of kept ones before it.
template <int kThreads>
__device__ void compact(const Threshold threshold, const std::uint32_t* score_bits, int tokens, int first, int last,
                        int* sources) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ int warp_counts[2][kWarps];  // two, so that one barrier a round is enough
  const int thread = static_cast<int>(threadIdx.x);
  const unsigned before_lane = (1u << (thread % kWarp)) - 1u;
  int above = 0;  // kept tokens before this round, ties apart
  int tied = 0;   // tied tokens before this round, kept or not
  int round = 0;
  for (int start = 0; start < tokens && above + min(tied, threshold.ties) < last; start += kThreads, round ^= 1) {
    const int token = start + thread;
    const std::uint32_t key = token < tokens ? score_key(score_bits[token]) : 0;
    const bool is_above = token < tokens && threshold.above(key);
    const bool is_tied = token < tokens && threshold.tied(key);
    const unsigned above_lanes = __ballot_sync(kWholeWarp, is_above);
    const unsigned tied_lanes = __ballot_sync(kWholeWarp, is_tied);
    // Both counts in one integer: a round has fewer than 2^15 threads.
    if (thread % kWarp == 0) warp_counts[round][thread / kWarp] = __popc(above_lanes) | __popc(tied_lanes) << 16;
    __syncthreads();
    int here = __popc(above_lanes & before_lane) | __popc(tied_lanes & before_lane) << 16;
    int all = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      const int count = warp_counts[round][warp];
      if (warp < thread / kWarp) here += count;
      all += count;
    }
    const int ties_before = tied + (here >> 16);
    const int row = above + (here & 0xffff) + min(ties_before, threshold.ties);
    const bool kept = is_above || (is_tied && ties_before < threshold.ties);
    if (kept && row >= first && row < last) sources[row - first] = token;
    above += all & 0xffff;
    tied += all >> 16;
  }
  __syncthreads();
}

// Copies `rows` whole rows: to[r] = from[sources[r]]. Threads walk over all units of all rows, so that short rows keep
// every thread busy; each loads several units before it stores, so that enough bytes are on their way.
template <typename Unit, int kThreads>
__device__ void copy_rows(const Unit* __restrict__ from, Unit* __restrict__ to, int units, const int* sources,
                          int rows) {
  if (units == 0) return;
  const int step_rows = kThreads / units;
  const int step_units = kThreads % units;
  int row = static_cast<int>(threadIdx.x) / units;
  int unit = static_cast<int>(threadIdx.x) % units;
  while (row < rows) {
    Unit held[kInFlight];
    std::size_t place[kInFlight];
    int loaded = 0;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (row >= rows) break;
      place[i] = static_cast<std::size_t>(row) * static_cast<std::size_t>(units) + static_cast<std::size_t>(unit);
      held[i] = from[static_cast<std::size_t>(sources[row]) * static_cast<std::size_t>(units) +
                     static_cast<std::size_t>(unit)];
      ++loaded;
      row += step_rows;
      unit += step_units;
      if (unit >= units) {
        unit -= units;
        ++row;
      }
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (i < loaded) to[place[i]] = held[i];
    }
  }
}

// Grid: B * parts blocks of kThreads threads. A share is at most kMaxShare rows.
template <typename Unit, int kThreads>
__global__ void __launch_bounds__(kThreads) token_gather(const Launch<Unit> launch) {
  __shared__ int sources[kMaxShare];
  const int row = static_cast<int>(blockIdx.x) / launch.parts;
  const int part = static_cast<int>(blockIdx.x) % launch.parts;
  const int first = static_cast<int>(static_cast<std::int64_t>(launch.keep) * part / launch.parts);
  const int last = static_cast<int>(static_cast<std::int64_t>(launch.keep) * (part + 1) / launch.parts);
  const std::size_t in = static_cast<std::size_t>(row) * static_cast<std::size_t>(launch.tokens);
  const std::size_t out = static_cast<std::size_t>(row) * static_cast<std::size_t>(launch.keep) +
                          static_cast<std::size_t>(first);
  const std::size_t units = static_cast<std::size_t>(launch.units);

  const Threshold threshold = find_threshold<kThreads>(launch.score_bits + in, launch.tokens, launch.keep);
  compact<kThreads>(threshold, launch.score_bits + in, launch.tokens, first, last, sources);
  for (int i = static_cast<int>(threadIdx.x); i < last - first; i += kThreads) {
    launch.keep_indices[out + static_cast<std::size_t>(i)] = sources[i];
    launch.gathered_positions[out + static_cast<std::size_t>(i)] =
        launch.positions[in + static_cast<std::size_t>(sources[i])];
  }
  copy_rows<Unit, kThreads>(launch.hidden + in * units, launch.gathered + out * units, launch.units, sources,
                            last - first);
}

}  // namespace ar::gather
