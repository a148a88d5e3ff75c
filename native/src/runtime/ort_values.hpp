// ONNX Runtime's objects, owned; and its tensors as this runtime's tensors. Only for ort_*.cpp and onnxruntime_*.cpp.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "runtime/backend.hpp"
#include "runtime/ort_library.hpp"

namespace ar {

inline const OrtApi& ort() { return *open_ort_library().api; }

// Throws `status`, where it is one, as AR_BACKEND_ERROR: `what`, `where`, `remedy`, and the library's own message.
void ort_check(OrtStatus* status, const char* what, const std::string& where, const std::string& remedy = "");

struct OrtRelease {
  void operator()(OrtSessionOptions* object) const { ort().ReleaseSessionOptions(object); }
  void operator()(OrtCUDAProviderOptionsV2* object) const { ort().ReleaseCUDAProviderOptions(object); }
  void operator()(OrtTensorRTProviderOptionsV2* object) const { ort().ReleaseTensorRTProviderOptions(object); }
  void operator()(OrtSession* object) const { ort().ReleaseSession(object); }
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

class OrtTensor final : public Tensor {
 public:
  explicit OrtTensor(OrtOwned<OrtValue> value);
  Kind kind() const override { return kind_; }
  std::vector<int64_t> shape() const override { return shape_; }
  std::size_t bytes() const override { return bytes_; }
  const void* data() const override { return data_; }
  const OrtValue* value() const { return value_.get(); }

 private:
  OrtOwned<OrtValue> value_;
  Kind kind_ = Kind::kOther;
  std::vector<int64_t> shape_;
  std::size_t bytes_ = 0;
  const void* data_ = nullptr;
};

class OrtCell final : public Cell {
 public:
  explicit OrtCell(const Array& values);
  Kind kind() const override { return view_->kind(); }
  std::vector<int64_t> shape() const override { return view_->shape(); }
  std::size_t bytes() const override { return memory_.size(); }
  const void* data() const override { return memory_.data(); }
  void* values() override { return memory_.data(); }
  const OrtValue* value() const { return view_->value(); }

 private:
  std::vector<unsigned char> memory_;
  std::unique_ptr<OrtTensor> view_;
};

}  // namespace ar
