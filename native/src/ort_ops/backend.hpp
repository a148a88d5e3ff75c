// What an execution provider adds to the op: where it runs.
//
// What it is: a provider's name and the call that moves the chosen rows there.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>

#include "gather/gather.hpp"

namespace ar::ort_ops {

struct Backend {
  const char* provider;  // null means the CPU's, as ONNX Runtime wants it
  // Throws Failure. The tensors lie where the provider keeps its tensors.
  void (*gather)(const OrtApi& api, const OrtKernelContext& context, const gather::Shape& shape,
                 const gather::Choice& choice, std::size_t element_bytes, const gather::Tensors& tensors);
};

const Backend* cuda_backend();  // null in a build without CUDA

}  // namespace ar::ort_ops
