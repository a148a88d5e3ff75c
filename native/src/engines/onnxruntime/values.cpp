#include "engines/onnxruntime/values.hpp"

#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "contract/error.hpp"
#include "engines/gpus.hpp"

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

constexpr std::size_t kAlignment = 64;  // of the library's own tensors
constexpr const char* kTensor = "ONNX Runtime cannot describe a tensor";

}  // namespace

Kind ort_kind(ONNXTensorElementDataType type) {
  for (const auto& [kind, known] : kKinds) {
    if (known == type) return kind;
  }
  return Kind::kOther;
}

std::size_t ort_bytes(Kind kind, const Shape& shape) {
  constexpr auto most = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max());
  std::size_t bytes = kind_bytes(kind);
  for (const int64_t extent : shape) {
    const auto size = static_cast<std::size_t>(extent);
    if (size != 0 && bytes > most / size) {
      throw Error(AR_INPUT_INVALID, "a tensor would be larger than any memory",
                  {"", std::to_string(extent), "", "ask for fewer new tokens"});
    }
    bytes *= size;
  }
  return bytes;
}

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
                                                 ort_bytes(array.kind, array.shape), array.shape.data(),
                                                 array.shape.size(), type_of(array.kind), &value),
            "ONNX Runtime cannot take a tensor", "");
  return OrtOwned<OrtValue>(value);
}

OrtTensor::OrtTensor(OrtOwned<OrtValue> value, std::shared_ptr<const OrtMemory> memory)
    : memory_(std::move(memory)), value_(std::move(value)) {
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
  ort_check(ort().GetTensorMutableData(value_.get(), &data_), kTensor, "");
  kind_ = ort_kind(type);
  bytes_ = ort_bytes(kind_, shape_);
}

OrtMemory::OrtMemory(std::size_t bytes)
    : bytes_(bytes), block_(std::calloc(1, bytes + kAlignment), std::free), data_(nullptr) {
  if (!block_) throw std::bad_alloc();
  void* first = block_.get();
  std::size_t left = bytes + kAlignment;
  data_ = static_cast<unsigned char*>(std::align(kAlignment, bytes, first, left));
}

TensorPtr ort_tensor(Kind kind, const Shape& shape, std::shared_ptr<const OrtMemory> memory, std::size_t offset) {
  OrtOwned<OrtValue> view = ort_view({kind, shape, memory->data() + offset});
  return std::make_shared<OrtTensor>(std::move(view), std::move(memory));
}

TensorPtr ort_device_zeros(const OrtSession* session, const OrtMemoryInfo* device, int index, Kind kind,
                           const Shape& shape) {
  constexpr const char* failed = "ONNX Runtime has no memory on the device";
  const std::string where = "cuda:" + std::to_string(index);
  OrtAllocator* raw = nullptr;
  ort_check(ort().CreateAllocator(session, device, &raw), failed, where);
  const OrtOwned<OrtAllocator> allocator(raw);
  OrtValue* value = nullptr;
  ort_check(ort().CreateTensorAsOrtValue(raw, shape.data(), shape.size(), type_of(kind), &value), failed, where);
  auto tensor = std::make_shared<OrtTensor>(OrtOwned<OrtValue>(value));
  if (tensor->bytes() != 0) cuda_zero(index, tensor->writable(), tensor->bytes());
  return tensor;
}

namespace {

OrtTensor copied(const Array& values) {
  auto memory = std::make_shared<const OrtMemory>(ort_bytes(values.kind, values.shape));
  if (memory->bytes() != 0) std::memcpy(memory->data(), values.data, memory->bytes());
  OrtOwned<OrtValue> view = ort_view({values.kind, values.shape, memory->data()});
  return OrtTensor(std::move(view), std::move(memory));
}

}  // namespace

OrtCell::OrtCell(const Array& values) : view_(copied(values)) {}

OrtSlots::OrtSlots(Kind kind, const Shape& shape)
    : kind_(kind),
      shape_(shape),
      row_bytes_(ort_bytes(kind, Shape(shape.begin() + 1, shape.end()))),
      memory_(std::make_shared<const OrtMemory>(ort_bytes(kind, shape))) {}

TensorPtr OrtSlots::part(int64_t slot, int64_t sequences) const {
  Shape shape = shape_;
  shape.front() = sequences;
  return ort_tensor(kind_, shape, memory_, static_cast<std::size_t>(slot) * row_bytes_);
}

void OrtSlots::move(int64_t from, int64_t to) {
  const auto place = [this](int64_t slot) { return memory_->data() + static_cast<std::size_t>(slot) * row_bytes_; };
  std::memcpy(place(to), place(from), row_bytes_);
}

}  // namespace ar
