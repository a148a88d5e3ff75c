// The words of CUDA that gather_kernel.cuh uses, for a host: a block's threads take turns, each until a barrier.
//
// What it is: enough to run the kernel's own source without a device, block after block. Warps run ahead of each other
// in an order that is drawn anew each time, so a barrier that is missing shows as a wrong result, and one that not all
// threads reach as a deadlock that is named. What it does not know: speed, and what only a device can show.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)

struct uint4 {
  std::uint32_t x, y, z, w;
};

namespace cuda_words {

inline constexpr unsigned kLanes = 32;
inline constexpr std::size_t kStackBytes = 128 * 1024;

struct Place {
  unsigned x = 0;
};

// One thread of a block.
struct Thread {
  ucontext_t context = {};
  std::unique_ptr<std::byte[]> stack{new std::byte[kStackBytes]};
  Place index;
  const unsigned* awaited = nullptr;  // the round of the barrier it stands at
  unsigned round = 0;                 // that round when it arrived; it goes on once the two differ
  bool done = false;
};

// The block that runs; one at a time.
struct Block {
  ucontext_t scheduler = {};
  Thread* thread = nullptr;  // whose turn it is
  Place index;
  const std::function<void()>* kernel = nullptr;
};
inline Block block;

struct Barrier {
  unsigned threads;
  unsigned arrived = 0;
  unsigned round = 0;

  void wait() {
    if (++arrived == threads) {
      arrived = 0;
      ++round;
      return;
    }
    block.thread->awaited = &round;
    block.thread->round = round;
    swapcontext(&block.thread->context, &block.scheduler);
  }
};

// Lanes of one warp, which exchange a value each.
struct Warp {
  Barrier barrier{kLanes};
  unsigned values[kLanes] = {};
};
inline Barrier block_barrier{0};
inline std::vector<Warp> warps;

// Gives `read` the values of all lanes, this one's being `value`.
template <typename Read>
auto exchange(unsigned value, Read read) {
  Warp& warp = warps[block.thread->index.x / kLanes];
  warp.values[block.thread->index.x % kLanes] = value;
  warp.barrier.wait();
  const auto result = read(warp.values);
  warp.barrier.wait();  // nobody writes the next value while one still reads
  return result;
}

inline void thread_body() {
  (*block.kernel)();
  block.thread->done = true;
  swapcontext(&block.thread->context, &block.scheduler);
}

inline void start(Thread* thread) {
  getcontext(&thread->context);
  thread->context.uc_stack.ss_sp = thread->stack.get();
  thread->context.uc_stack.ss_size = kStackBytes;
  makecontext(&thread->context, thread_body, 0);
  thread->done = false;
  thread->awaited = nullptr;
}

// Gives each thread of a warp that can go on a turn; returns whether there was one.
inline bool run_warp(Thread* lanes, std::mt19937* random) {
  unsigned order[kLanes];
  std::iota(order, order + kLanes, 0u);
  std::shuffle(order, order + kLanes, *random);
  bool moved = false;
  for (const unsigned lane : order) {
    Thread& thread = lanes[lane];
    if (thread.done || (thread.awaited != nullptr && *thread.awaited == thread.round)) continue;
    thread.awaited = nullptr;
    block.thread = &thread;
    swapcontext(&block.scheduler, &thread.context);
    moved = true;
  }
  return moved;
}

// Runs a block to its end. Each warp runs as far ahead of the others as the barriers let it.
inline void run_block(std::vector<Thread>* threads, std::mt19937* random) {
  for (Thread& thread : *threads) start(&thread);
  std::vector<std::size_t> order(threads->size() / kLanes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  bool moved = true;
  while (moved) {
    moved = false;
    std::shuffle(order.begin(), order.end(), *random);
    for (const std::size_t warp : order) {
      while (run_warp(threads->data() + warp * kLanes, random)) moved = true;
    }
  }
  const bool done = std::all_of(threads->begin(), threads->end(), [](const Thread& thread) { return thread.done; });
  if (!done) throw std::logic_error("deadlock: some threads of the block never reach the barrier the others wait at");
}

// Runs `kernel()` in every thread of every block.
inline void run(unsigned blocks, unsigned threads_of_block, const std::function<void()>& kernel, unsigned seed) {
  static std::vector<Thread> threads;  // kept, because making stacks costs more than running on them
  if (threads.size() != threads_of_block) threads = std::vector<Thread>(threads_of_block);
  for (unsigned i = 0; i < threads_of_block; ++i) threads[i].index.x = i;
  std::mt19937 random(seed);
  block.kernel = &kernel;
  for (block.index.x = 0; block.index.x < blocks; ++block.index.x) {
    block_barrier = Barrier{threads_of_block};
    warps.assign(threads_of_block / kLanes, Warp{});
    run_block(&threads, &random);
  }
}

}  // namespace cuda_words

#define threadIdx (cuda_words::block.thread->index)
#define blockIdx (cuda_words::block.index)

inline void __syncthreads() { cuda_words::block_barrier.wait(); }

inline unsigned __ballot_sync(unsigned, bool vote) {
  return cuda_words::exchange(vote ? 1u : 0u, [](const unsigned* votes) {
    unsigned lanes = 0;
    for (unsigned lane = 0; lane < cuda_words::kLanes; ++lane) lanes |= votes[lane] << lane;
    return lanes;
  });
}

inline int __shfl_up_sync(unsigned, int value, unsigned step) {
  const unsigned lane = cuda_words::block.thread->index.x % cuda_words::kLanes;
  return static_cast<int>(cuda_words::exchange(
      static_cast<unsigned>(value), [=](const unsigned* values) { return values[lane < step ? lane : lane - step]; }));
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int atomicAdd(int* place, int value) {
  const int before = *place;  // threads take turns: nobody comes between
  *place += value;
  return before;
}

using std::min;
