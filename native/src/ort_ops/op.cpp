#include "ort_ops/op.hpp"

#include <memory>
#include <vector>

#include "ort_ops/ort.hpp"

namespace ar::ort_ops {
namespace {

using Dims = std::vector<std::int64_t>;

// One node of a graph.
struct Kernel {
  const Op& op;
  std::int64_t k;
};

// An input or output of a run.
struct Tensor {
  void* data;
  Dims dims;
};

Tensor input(const OrtApi& api, OrtKernelContext* context, std::size_t index) {
  const OrtValue* value = nullptr;
  check(api.KernelContext_GetInput(context, index, &value));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owned(
      info, api.ReleaseTensorTypeAndShapeInfo);
  std::size_t rank = 0;
  check(api.GetDimensionsCount(info, &rank));
  Tensor tensor{nullptr, Dims(rank)};
  check(api.GetDimensions(info, tensor.dims.data(), rank));
  check(api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));  // the C API has no other way to read
  return tensor;
}

void* output(const OrtApi& api, OrtKernelContext* context, std::size_t index, const Dims& dims) {
  OrtValue* value = nullptr;
  check(api.KernelContext_GetOutput(context, index, dims.data(), dims.size(), &value));
  void* data = nullptr;
  check(api.GetTensorMutableData(value, &data));
  return data;
}

std::size_t bytes_of(ONNXTensorElementDataType type) { return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 2; }

void compute(const Kernel& kernel, OrtKernelContext* context) {
  const OrtApi& api = kernel.op.api;
  const Tensor hidden = input(api, context, 0);
  const Tensor scores = input(api, context, 1);
  const Tensor positions = input(api, context, 2);
  const auto [shape, error] = gather::check(hidden.dims, scores.dims, positions.dims, kernel.k);
  check(api, error);
  const Dims kept = {shape.batch, shape.keep};
  const gather::Tensors tensors{hidden.data,
                                static_cast<const float*>(scores.data),
                                static_cast<const std::int64_t*>(positions.data),
                                output(api, context, 0, {shape.batch, shape.keep, shape.hidden}),
                                static_cast<std::int64_t*>(output(api, context, 1, kept)),
                                static_cast<std::int64_t*>(output(api, context, 2, kept))};
  kernel.op.backend.gather(api, *context, shape, bytes_of(kernel.op.type), tensors);
}

OrtStatus* create(const OrtCustomOp* base, const OrtApi*, const OrtKernelInfo* info, void** kernel) noexcept {
  const Op& op = *static_cast<const Op*>(base);
  return guard(op.api, [&] {
    std::int64_t k = 0;
    check(op.api.KernelInfoGetAttribute_int64(info, gather::kBudget, &k));
    check(op.api, gather::check_budget(k));
    *kernel = new Kernel{op, k};
  });
}

void declare(OrtCustomOp* op) {
  op->GetName = [](const OrtCustomOp*) -> const char* { return gather::kName; };
  op->GetExecutionProviderType = [](const OrtCustomOp* self) {
    return static_cast<const Op*>(self)->backend.provider;
  };
  op->GetInputTypeCount = [](const OrtCustomOp*) { return gather::kInputs.size(); };
  op->GetOutputTypeCount = [](const OrtCustomOp*) { return gather::kOutputs.size(); };
  op->GetInputType = [](const OrtCustomOp* self, std::size_t index) {
    constexpr ONNXTensorElementDataType rest[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64};
    return index == 0 ? static_cast<const Op*>(self)->type : rest[index - 1];
  };
  op->GetOutputType = [](const OrtCustomOp* self, std::size_t index) {
    return index == 0 ? static_cast<const Op*>(self)->type : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  };
  op->GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  op->GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  op->GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
  // Never asked without variadic inputs, but always called for.
  op->GetVariadicInputMinArity = op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
}

void define(OrtCustomOp* op) {
  op->CreateKernelV2 = create;
  op->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
    const Kernel& own = *static_cast<const Kernel*>(kernel);
    return guard(own.op.api, [&] { compute(own, context); });
  };
  op->KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op->InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) -> OrtStatus* {
    return infer_shapes(static_cast<const Op*>(self)->api, context);
  };
}

}  // namespace

Op::Op(const OrtApi& asking, uint32_t api_version, ONNXTensorElementDataType element, const Backend& where)
    : OrtCustomOp{}, api(asking), type(element), backend(where) {
  version = api_version;
  declare(this);
  define(this);
}

}  // namespace ar::ort_ops
