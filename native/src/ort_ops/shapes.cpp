// Shape inference of the op, by the C API: the C++ wrapper writes symbolic dimensions in a way that ONNX Runtime
// refuses, and then nothing is inferred. What is wrong is left to a run: ONNX Runtime drops the errors of inference.
#include <memory>
#include <vector>

#include "ort_ops/op.hpp"
#include "ort_ops/ort.hpp"

namespace ar::ort_ops {
namespace {

// A dimension: a number, a name, or neither.
struct Dim {
  std::int64_t value = -1;
  const char* name = "";
};
using Dims = std::vector<Dim>;

struct Input {
  ONNXTensorElementDataType type;
  Dims dims;
};

Input input(const OrtApi& api, OrtShapeInferContext* context, std::size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the context's
  check(api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  std::size_t rank = 0;
  check(api.GetDimensionsCount(info, &rank));
  std::vector<std::int64_t> values(rank);
  std::vector<const char*> names(rank, "");
  check(api.GetDimensions(info, values.data(), rank));
  check(api.GetSymbolicDimensions(info, names.data(), rank));
  Input found{ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, Dims(rank)};
  check(api.GetTensorElementType(info, &found.type));
  for (std::size_t i = 0; i < rank; ++i) found.dims[i] = {values[i], names[i]};
  return found;
}

void set_output(const OrtApi& api, OrtShapeInferContext* context, std::size_t index, const Input& output) {
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

}  // namespace

OrtStatus* infer_shapes(const OrtApi& api, OrtShapeInferContext* context) noexcept {
  return guard(api, [&] {
    const auto [type, hidden] = input(api, context, 0);
    const std::int64_t k = budget(api, context);
    if (hidden.size() != 3) return;  // not known yet, or wrong
    set_output(api, context, 0, {type, {hidden[0], {k, ""}, hidden[2]}});
    const Input kept{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {hidden[0], {k, ""}}};
    set_output(api, context, 1, kept);
    set_output(api, context, 2, kept);
  });
}

}  // namespace ar::ort_ops
