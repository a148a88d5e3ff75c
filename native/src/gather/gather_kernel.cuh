// The device code of allrounder::TokenGather.
//
// What it is: one kernel that copies the rows that stay; blocks share them evenly. What it knows: where each row comes
// from. What it does not know: why (gather.hpp), nor how large a grid is, which the host decides. native/tests/gather/
// compiles this file for the host too and runs it there, thread by thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ar::gather {

inline constexpr int kInFlight = 4;  // units that a thread loads before it stores the first

// One launch. `Unit` is what a thread moves at once; `units` of them make a row. The batch is part of the rows.
template <typename Unit>
struct Launch {
  const Unit* hidden;                   // [rows_in, units]
  const std::int64_t* position_ids;     // [axes, rows_in]
  const std::int32_t* sources;          // [rows_out], rows of the input; null where all stay
  Unit* gathered;                       // [rows_out, units]
  std::int64_t* gathered_position_ids;  // [axes, rows_out]
  std::int64_t rows_in;
  std::int64_t rows_out;
  std::int64_t axes;
  int units;
  unsigned blocks;

  __device__ std::int64_t source(std::int64_t row) const { return sources == nullptr ? row : sources[row]; }
};

// Copies the rows [first, last) of the output. Threads walk over all units of all rows, so that short rows keep every
// thread busy; each loads several units before it stores, so that enough bytes are on their way.
template <typename Unit, int kThreads>
__device__ void copy_rows(const Launch<Unit>& launch, std::int64_t first, std::int64_t last) {
  const int units = launch.units;
  if (units == 0) return;
  const int step_rows = kThreads / units;
  const int step_units = kThreads % units;
  std::int64_t row = first + static_cast<int>(threadIdx.x) / units;
  int unit = static_cast<int>(threadIdx.x) % units;
  while (row < last) {
    Unit held[kInFlight];
    std::int64_t place[kInFlight];
    int loaded = 0;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (row >= last) break;
      place[i] = row * units + unit;
      held[i] = launch.hidden[launch.source(row) * units + unit];
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
      if (i < loaded) launch.gathered[place[i]] = held[i];
    }
  }
}

// Grid: `blocks` blocks of kThreads threads.
template <typename Unit, int kThreads>
__global__ void __launch_bounds__(kThreads) token_gather(const Launch<Unit> launch) {
  const std::int64_t block = blockIdx.x;
  const std::int64_t first = launch.rows_out * block / launch.blocks;
  const std::int64_t last = launch.rows_out * (block + 1) / launch.blocks;
  for (std::int64_t row = first + threadIdx.x; row < last; row += kThreads) {
    for (std::int64_t axis = 0; axis < launch.axes; ++axis) {
      launch.gathered_position_ids[axis * launch.rows_out + row] =
          launch.position_ids[axis * launch.rows_in + launch.source(row)];
    }
  }
  copy_rows<Unit, kThreads>(launch, first, last);
}

}  // namespace ar::gather
