// Replaces gather_cuda.cu in a build without CUDA.
#include "gather/gather_cuda.hpp"

namespace ar::gather {
namespace {

constexpr char kAbsent[] =
    "TokenGather: this build has no CUDA kernel; remedy: configure native/ with -DALLROUNDER_CUDA=ON";

}  // namespace

Choice choose_cuda(const Shape&, const Candidates&, void*) { return {{}, {}, kAbsent}; }

std::string gather_cuda(const Shape&, const Choice&, std::size_t, const Tensors&, void*) { return kAbsent; }

}  // namespace ar::gather
