// The words of CUDA that gather_kernel.cuh uses, for a host: the threads of a grid, one after another.
//
// What it is: enough to run the kernel's own source without a device. The order of the threads is drawn anew each time:
// one that needs what another wrote shows as a wrong result. What it does not know: speed, and what only a device can
// show.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(threads)

struct uint4 {
  std::uint32_t x, y, z, w;
};

namespace cuda_words {

struct Place {
  unsigned x = 0;
};
inline Place thread;
inline Place block;

// Runs `kernel()` in every thread of every block.
template <typename Kernel>
void run(unsigned blocks, unsigned threads_of_block, const Kernel& kernel, unsigned seed) {
  std::vector<unsigned> order(blocks * threads_of_block);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  for (const unsigned each : order) {
    block.x = each / threads_of_block;
    thread.x = each % threads_of_block;
    kernel();
  }
}

}  // namespace cuda_words

#define threadIdx (cuda_words::thread)
#define blockIdx (cuda_words::block)
