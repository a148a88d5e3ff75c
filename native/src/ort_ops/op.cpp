#include "ort_ops/op.hpp"

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "ort_ops/ort.hpp"

namespace ar::ort_ops {
namespace {

using Dims = gather::Dims;

constexpr std::size_t kScores = 2;  // the first input by which tokens are chosen

// An input or output of a run.
struct Tensor {
  void* data = nullptr;
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

void compute(const Op& op, OrtKernelContext* context) {
  const OrtApi& api = op.api;
  std::array<Tensor, gather::kInputs.size()> inputs;
  std::array<Dims, gather::kInputs.size()> dims;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    inputs[i] = input(api, context, i);
    dims[i] = inputs[i].dims;
  }
  const auto [shape, error] = gather::check(dims);
  check(api, error);
  const gather::Candidates candidates{
      static_cast<const float*>(inputs[2].data), static_cast<const std::int64_t*>(inputs[3].data),
      static_cast<const std::int64_t*>(inputs[4].data), static_cast<const std::int64_t*>(inputs[5].data)};
  const gather::Choice choice = gather::choose(shape, candidates);
  check(api, choice.error);
  const std::int64_t rows = gather::kept_rows(shape, choice);
  const auto kept = static_cast<std::int64_t>(choice.keep.size());
  const gather::Tensors tensors{
      inputs[0].data, static_cast<const std::int64_t*>(inputs[1].data),
      output(api, context, 0, {shape.batch, rows, shape.hidden}),
      static_cast<std::int64_t*>(output(api, context, 1, {shape.axes, shape.batch, rows})),
      static_cast<std::int64_t*>(output(api, context, 2, {kept}))};
  op.backend.gather(api, *context, shape, choice, bytes_of(op.type), tensors);
}

OrtStatus* create(const OrtCustomOp* base, const OrtApi*, const OrtKernelInfo*, void** kernel) noexcept {
  *kernel = const_cast<OrtCustomOp*>(base);  // a node has nothing of its own
  return nullptr;
}

// ---- Shape inference ----
//
// By the C API: the C++ wrapper writes symbolic dimensions in a way that ONNX Runtime refuses, and then nothing is
// inferred. What is wrong is left to a run: ONNX Runtime drops the errors of inference.

// A dimension: a number, a name, or neither.
struct Dim {
  std::int64_t value = -1;
  std::string name;
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
    names.push_back(dim.value < 0 ? dim.name.c_str() : "");
  }
  check(api.SetTensorElementType(info, output.type));
  check(api.SetDimensions(info, values.data(), values.size()));
  check(api.SetSymbolicDimensions(info, names.data(), names.size()));
  check(api.ShapeInferContext_SetOutputTypeShape(context, index, info));
}

// Fills the outputs' types and shapes, symbolic dimensions included. Same-name ops share one, whatever their T. Each node
// has names of its own for what is not known: ONNX Runtime takes dimensions of one name to be of one size, and a
// dimension without a name to be of the size -1.
OrtStatus* infer_shapes(const OrtApi& api, OrtShapeInferContext* context) noexcept {
  return guard(api, [&] {
    const auto [type, hidden] = input(api, context, 0);
    const auto [positions_type, positions] = input(api, context, 1);
    static std::atomic<unsigned> nodes{0};
    const std::string node = gather::kName + std::to_string(nodes++);
    const Dim rows{-1, node + ".R"};  // R and T follow from values
    const Dim tokens{-1, node + ".T"};
    const auto named = [&node](Dim dim, const char* letter) {
      if (dim.value < 0 && dim.name.empty()) dim.name = node + "." + letter;
      return dim;
    };
    if (hidden.size() == 3) set_output(api, context, 0, {type, {named(hidden[0], "B"), rows, named(hidden[2], "H")}});
    if (positions.size() == 3) {
      set_output(api, context, 1, {positions_type, {named(positions[0], "A"), named(positions[1], "B"), rows}});
    }
    set_output(api, context, 2, {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {tokens}});
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
    if (index == 0) return static_cast<const Op*>(self)->type;
    return index == kScores ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  };
  op->GetOutputType = [](const OrtCustomOp* self, std::size_t index) {
    return index == 0 ? static_cast<const Op*>(self)->type : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  };
  op->GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  op->GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
  // The choice is made on the CPU, whatever the provider: how many rows stay must be known there anyway.
  op->GetInputMemoryType = [](const OrtCustomOp*, std::size_t index) {
    return index < kScores ? OrtMemTypeDefault : OrtMemTypeCPUInput;
  };
  // Never asked without variadic inputs, but always called for.
  op->GetVariadicInputMinArity = op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
}

void define(OrtCustomOp* op) {
  op->CreateKernelV2 = create;
  op->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
    const Op& own = *static_cast<const Op*>(kernel);
    return guard(own.api, [&] { compute(own, context); });
  };
  op->KernelDestroy = [](void*) {};
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
