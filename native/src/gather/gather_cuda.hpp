// allrounder::TokenGather on a CUDA device.
//
// What it is: one kernel launch on a stream: radix select, stable ties, ordered compaction, row copy. No sort, no
// workspace, no allocation, no wait: it may be captured in a CUDA graph, and replays read the scores of that moment.
//
// Compiled, not yet run on a device. Where there is one, native/tests/gather/run_on_gpu.sh builds and runs all that
// needs it.
#pragma once

#include <cstddef>
#include <string>

#include "gather/gather.hpp"

namespace ar::gather {

// Launches the op on `stream` (a cudaStream_t) of the current device and returns at once: a sentence where the launch
// failed, or where this build has no CUDA, else nothing. `shape` has passed check(); the tensors lie on the device.
std::string gather_cuda(const Shape& shape, std::size_t element_bytes, const Tensors& tensors, void* stream);

}  // namespace ar::gather
