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

// ---- Shape inference ----
//
// By the C API: the C++ wrapper writes symbolic dimensions in a way that ONNX Runtime refuses, and then nothing is
// inferred. What is wrong is left to a run: ONNX Runtime drops the errors of inference.

// A dimension: a number, a name, or neither.
struct Dim {
  std::int64_t value = -1;
  const char* name = "";
};

struct Inferred {  // an input or output before a run
  ONNXTensorElementDataType type;
  std::vector<Dim> dims;
};

Inferred input(const OrtApi& api, OrtShapeInferContext* context, std::size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the context's
  check(api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  std::size_t rank = 0;
  check(api.GetDimensionsCount(info, &rank));
  std::vector<std::int64_t> values(rank);
  std::vector<const char*> names(rank, "");
  check(api.GetDimensions(info, values.data(), rank));
  check(api.GetSymbolicDimensions(info, names.data(), rank));
  Inferred found{ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, std::vector<Dim>(rank)};
  check(api.GetTensorElementType(info, &found.type));
  for (std::size_t i = 0; i < rank; ++i) found.dims[i] = {values[i], names[i]};
  return found;
}

void set_output(const OrtApi& api, OrtShapeInferContext* context, std::size_t index, const Inferred& output) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.CreateTensorTypeAndShapeInfo(&info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owned(
      info, api.ReleaseTensorTypeAndShapeInfo);
  std::vector<std::int64_t> values;
  std::vector<const char*> names;
  for (const Dim& dim : output.dims) {
    values.push_back(dim.value < 0 ? -1 : dim.value);
    names.push_back(dim.value < 0 ? dim.name : "");
  }
  check(api.SetTensorElementType(info, output.type));
  check(api.SetDimensions(info, values.data(), values.size()));
  check(api.SetSymbolicDimensions(info, names.data(), names.size()));
  check(api.ShapeInferContext_SetOutputTypeShape(context, index, info));
}

std::int64_t budget(const OrtApi& api, const OrtShapeInferContext* context) {
  const OrtOpAttr* attribute = nullptr;
  check(api.ShapeInferContext_GetAttribute(context, gather::kBudget, &attribute));
  std::int64_t k = 0;
  std::size_t bytes = 0;
  check(api.ReadOpAttr(attribute, ORT_OP_ATTR_INT, &k, sizeof k, &bytes));
  return k;
}

// Fills the outputs' types and shapes, symbolic dimensions included. Same-name ops share one, whatever their T.
OrtStatus* infer_shapes(const OrtApi& api, OrtShapeInferContext* context) noexcept {
  return guard(api, [&] {
    const auto [type, hidden] = input(api, context, 0);
    const std::int64_t k = budget(api, context);
    if (hidden.size() != 3) return;  // not known yet, or wrong
    set_output(api, context, 0, {type, {hidden[0], {k, ""}, hidden[2]}});
    const Inferred kept{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {hidden[0], {k, ""}}};
    set_output(api, context, 1, kept);
    set_output(api, context, 2, kept);
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
