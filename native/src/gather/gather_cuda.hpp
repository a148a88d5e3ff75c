// allrounder::TokenGather on a CUDA device.
//
// What it is: one kernel that moves the rows that gather.hpp chose, and a fetch for those who have the candidates on the
// device. Tokens are chosen on the CPU: ONNX Runtime must know there how many rows stay, N scores are a few KB, and what
// is wrong with them can be said. Where N = 0, as for new tokens, nothing is fetched, allocated or waited for, so that
// the launch may be captured in a CUDA graph.
//
// Compiled, not yet run on a device. Where there is one, native/tests/gather/run_on_gpu.sh builds and runs all that
// needs it.
#pragma once

#include <cstddef>
#include <string>

#include "gather/gather.hpp"

namespace ar::gather {

// Fetches the candidates from the device, waits for them, and chooses; an error is in the choice. No call is made where
// N = 0 and I = 0.
Choice choose_cuda(const Shape& shape, const Candidates& candidates, void* stream);

// Launches the move on `stream` (a cudaStream_t) of the current device and returns at once: a sentence where that
// failed, or where this build has no CUDA, else nothing. The tensors lie on the device.
std::string gather_cuda(const Shape& shape, const Choice& choice, std::size_t element_bytes, const Tensors& tensors,
                        void* stream);

}  // namespace ar::gather
