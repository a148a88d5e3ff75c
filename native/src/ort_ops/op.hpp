// allrounder::TokenGather as a custom op of ONNX Runtime: one record for an element type on a provider.
//
// What it is: declaration, shape inference and kernel. The rule is the gather's, where it is computed the backend's.
#pragma once

#include <onnxruntime_c_api.h>

#include "ort_ops/backend.hpp"

namespace ar::ort_ops {

struct Op : OrtCustomOp {
  // `api` is that of the ONNX Runtime that asks, `api_version` what it and our headers both know.
  Op(const OrtApi& api, uint32_t api_version, ONNXTensorElementDataType type, const Backend& backend);

  const OrtApi& api;
  ONNXTensorElementDataType type;  // of hidden: T
  const Backend& backend;
};

// The element types that T may be. All of them on every provider: a type that is missing would make graphs of that
// type fail to load, because a registered op hides the function of its name.
inline constexpr ONNXTensorElementDataType kTypes[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                       ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                                                       ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16};

}  // namespace ar::ort_ops
