#include "runtime/ort_values.hpp"

#include <numeric>
#include <utility>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr std::pair<Kind, ONNXTensorElementDataType> kKinds[] = {
    {Kind::kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {Kind::kBool, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
    {Kind::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {Kind::kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {Kind::kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {Kind::kBfloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16},
};

ONNXTensorElementDataType type_of(Kind kind) {
  for (const auto& [known, type] : kKinds) {
    if (known == kind) return type;
  }
  throw Error(AR_INTERNAL, "values of this kind are never made here");
}

std::size_t count_of(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1},
                         [](std::size_t product, int64_t size) { return product * static_cast<std::size_t>(size); });
}

Kind kind_of(ONNXTensorElementDataType type) {
  for (const auto& [kind, known] : kKinds) {
    if (known == type) return kind;
  }
  return Kind::kOther;
}

constexpr const char* kTensor = "ONNX Runtime cannot describe a tensor";

}  // namespace

void ort_check(OrtStatus* status, const char* what, const std::string& where, const std::string& remedy) {
  if (status == nullptr) return;
  const std::string got = ort().GetErrorMessage(status);
  ort().ReleaseStatus(status);
  throw Error(AR_BACKEND_ERROR, what, {where, got, "", remedy});
}

OrtAllocator* ort_allocator() {
  OrtAllocator* allocator = nullptr;
  ort_check(ort().GetAllocatorWithDefaultOptions(&allocator), "ONNX Runtime has no allocator", "");
  return allocator;
}

OrtOwned<OrtMemoryInfo> ort_host_memory() {
  OrtMemoryInfo* info = nullptr;
  ort_check(ort().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info), "ONNX Runtime has no memory",
            "cpu");
  return OrtOwned<OrtMemoryInfo>(info);
}

OrtOwned<OrtMemoryInfo> ort_memory(const EngineOptions& options) {
  if (options.on_cpu()) return ort_host_memory();
  OrtMemoryInfo* info = nullptr;
  ort_check(ort().CreateMemoryInfo("Cuda", OrtArenaAllocator, options.device_index(), OrtMemTypeDefault, &info),
            "ONNX Runtime has no memory on the device", options.device);
  return OrtOwned<OrtMemoryInfo>(info);
}

OrtOwned<OrtValue> ort_view(const Array& array) {
  OrtValue* value = nullptr;
  const OrtOwned<OrtMemoryInfo> memory = ort_host_memory();
  // The interface takes any memory as writable; inputs are only read.
  ort_check(ort().CreateTensorWithDataAsOrtValue(memory.get(), const_cast<void*>(array.data),
                                                 count_of(array.shape) * kind_bytes(array.kind), array.shape.data(),
                                                 array.shape.size(), type_of(array.kind), &value),
            "ONNX Runtime cannot take a tensor", "");
  return OrtOwned<OrtValue>(value);
}

OrtTensor::OrtTensor(OrtOwned<OrtValue> value) : value_(std::move(value)) {
  int is_tensor = 0;
  ort_check(ort().IsTensor(value_.get(), &is_tensor), kTensor, "");
  if (is_tensor == 0) throw Error(AR_BACKEND_ERROR, "a graph gave something else than a tensor");
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  ort_check(ort().GetTensorTypeAndShape(value_.get(), &raw), kTensor, "");
  const OrtOwned<OrtTensorTypeAndShapeInfo> info(raw);
  ONNXTensorElementDataType type{};
  std::size_t rank = 0;
  ort_check(ort().GetTensorElementType(info.get(), &type), kTensor, "");
  ort_check(ort().GetDimensionsCount(info.get(), &rank), kTensor, "");
  shape_.resize(rank);
  ort_check(ort().GetDimensions(info.get(), shape_.data(), rank), kTensor, "");
  void* data = nullptr;
  ort_check(ort().GetTensorMutableData(value_.get(), &data), kTensor, "");
  data_ = data;
  kind_ = kind_of(type);
  bytes_ = count_of(shape_) * kind_bytes(kind_);
}

OrtCell::OrtCell(const Array& values) {
  const std::size_t bytes = count_of(values.shape) * kind_bytes(values.kind);
  const auto* first = static_cast<const unsigned char*>(values.data);
  memory_.assign(first, first + bytes);
  view_ = std::make_unique<OrtTensor>(ort_view({values.kind, values.shape, memory_.data()}));
}

}  // namespace ar
