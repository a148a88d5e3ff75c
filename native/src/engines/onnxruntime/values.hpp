// ONNX Runtime's objects, owned; and its tensors as this runtime's tensors. Only for ort_*.cpp and onnxruntime_*.cpp.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "engines/backend.hpp"
#include "engines/onnxruntime/library.hpp"

namespace ar {

inline const OrtApi& ort() { return *open_ort_library().api; }

// Throws `status`, where it is one, as AR_BACKEND_ERROR: `what`, `where`, `remedy`, and the library's own message.
void ort_check(OrtStatus* status, const char* what, const std::string& where, const std::string& remedy = "");

struct OrtRelease {
  void operator()(OrtSessionOptions* object) const { ort().ReleaseSessionOptions(object); }
  void operator()(OrtCUDAProviderOptionsV2* object) const { ort().ReleaseCUDAProviderOptions(object); }
  void operator()(OrtTensorRTProviderOptionsV2* object) const { ort().ReleaseTensorRTProviderOptions(object); }
  void operator()(OrtSession* object) const { ort().ReleaseSession(object); }
  void operator()(OrtAllocator* object) const { ort().ReleaseAllocator(object); }
  void operator()(OrtTypeInfo* object) const { ort().ReleaseTypeInfo(object); }
  void operator()(OrtIoBinding* object) const { ort().ReleaseIoBinding(object); }
  void operator()(OrtMemoryInfo* object) const { ort().ReleaseMemoryInfo(object); }
  void operator()(OrtTensorTypeAndShapeInfo* object) const { ort().ReleaseTensorTypeAndShapeInfo(object); }
  void operator()(OrtValue* object) const { ort().ReleaseValue(object); }
};
template <class T>
using OrtOwned = std::unique_ptr<T, OrtRelease>;

// The library's default allocator: the host's memory. It belongs to the library.
OrtAllocator* ort_allocator();

OrtOwned<OrtMemoryInfo> ort_memory(const EngineOptions& options);  // of the device
OrtOwned<OrtMemoryInfo> ort_host_memory();

// Returns a value that points to the array's own memory.
OrtOwned<OrtValue> ort_view(const Array& array);

// Zeros in the host's memory, aligned as the library's own; touched by the system when they are first used.
class OrtMemory {
 public:
  explicit OrtMemory(std::size_t bytes);
  std::size_t bytes() const { return bytes_; }
  unsigned char* data() const { return data_; }

 private:
  std::size_t bytes_;
  std::unique_ptr<void, decltype(&std::free)> block_;
  unsigned char* data_;
};

// A value, and the memory that it points to where that is not its own.
class OrtTensor final : public Tensor {
 public:
  explicit OrtTensor(OrtOwned<OrtValue> value, std::shared_ptr<const OrtMemory> memory = nullptr);
  Kind kind() const override { return kind_; }
  std::vector<int64_t> shape() const override { return shape_; }
  std::size_t bytes() const override { return bytes_; }
  const void* data() const override { return data_; }
  void* writable() const { return data_; }
  const OrtValue* value() const { return value_.get(); }

 private:
  std::shared_ptr<const OrtMemory> memory_;
  OrtOwned<OrtValue> value_;
  Kind kind_ = Kind::kOther;
  std::vector<int64_t> shape_;
  std::size_t bytes_ = 0;
  void* data_ = nullptr;
};

class OrtCell final : public Cell {
 public:
  explicit OrtCell(const Array& values);
  Kind kind() const override { return view_.kind(); }
  std::vector<int64_t> shape() const override { return view_.shape(); }
  std::size_t bytes() const override { return view_.bytes(); }
  const void* data() const override { return view_.data(); }
  void* values() override { return view_.writable(); }
  const OrtValue* value() const { return view_.value(); }

 private:
  OrtTensor view_;
};

// Caches of several sequences, in one block of the host's memory.
class OrtSlots final : public Slots {
 public:
  OrtSlots(Kind kind, const Shape& shape);
  TensorPtr first(int64_t sequences) const override { return part(0, sequences); }
  TensorPtr row(int64_t slot) const override { return part(slot, 1); }
  void move(int64_t from, int64_t to) override;

 private:
  TensorPtr part(int64_t slot, int64_t sequences) const;

  Kind kind_;
  Shape shape_;
  std::size_t row_bytes_;
  std::shared_ptr<const OrtMemory> memory_;
};

// The caches of one sequence, wherever they lie.
class OneSlot final : public Slots {
 public:
  explicit OneSlot(TensorPtr cache) : cache_(std::move(cache)) {}
  TensorPtr first(int64_t) const override { return cache_; }
  TensorPtr row(int64_t) const override { return cache_; }
  void move(int64_t, int64_t) override {}  // there is no other

 private:
  TensorPtr cache_;
};

// Returns the tensor in memory that the host reads and writes.
TensorPtr ort_tensor(Kind kind, const Shape& shape, std::shared_ptr<const OrtMemory> memory, std::size_t offset = 0);

// Returns zeros in memory of the device.
TensorPtr ort_device_zeros(const OrtSession* session, const OrtMemoryInfo* device, int index, Kind kind,
                           const Shape& shape);

std::size_t ort_bytes(Kind kind, const Shape& shape);  // throws AR_INPUT_INVALID: more than this machine can address
Kind ort_kind(ONNXTensorElementDataType type);

}  // namespace ar
