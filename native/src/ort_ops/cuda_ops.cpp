// The op on ONNX Runtime's CUDA provider: on its stream, without waiting for it.
#include "gather/gather_cuda.hpp"
#include "ort_ops/backend.hpp"
#include "ort_ops/ort.hpp"

namespace ar::ort_ops {
namespace {

void gather_on_stream(const OrtApi& api, const OrtKernelContext& context, const gather::Shape& shape,
                      const gather::Choice& choice, std::size_t element_bytes, const gather::Tensors& tensors) {
  void* stream = nullptr;
  check(api.KernelContext_GetGPUComputeStream(&context, &stream));
  check(api, gather::gather_cuda(shape, choice, element_bytes, tensors, stream), ORT_RUNTIME_EXCEPTION);
}

}  // namespace

const Backend* cuda_backend() {
  static constexpr Backend backend{"CUDAExecutionProvider", gather_on_stream};
  return &backend;
}

}  // namespace ar::ort_ops
