// Replaces gather_cuda.cu in a build without CUDA.
#include "gather/gather_cuda.hpp"

namespace ar::gather {

std::string gather_cuda(const Shape&, std::size_t, const Tensors&, void*) {
  return "TokenGather: this build has no CUDA kernel; remedy: configure native/ with -DALLROUNDER_CUDA=ON";
}

}  // namespace ar::gather
