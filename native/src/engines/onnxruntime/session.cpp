#include "engines/onnxruntime/session.hpp"

#include <algorithm>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr const char* kFailed = "ONNX Runtime failed";

using Count = decltype(OrtApi::SessionGetInputCount);
using Name = decltype(OrtApi::SessionGetInputName);

std::vector<std::string> names(const OrtSession* session, Count count, Name name, const std::string& where) {
  std::size_t size = 0;
  ort_check(count(session, &size), kFailed, where);
  OrtAllocator* allocator = ort_allocator();
  std::vector<std::string> found;
  for (std::size_t index = 0; index < size; ++index) {
    char* text = nullptr;
    ort_check(name(session, index, allocator, &text), kFailed, where);
    found.emplace_back(text);
    allocator->Free(allocator, text);
  }
  return found;
}

OrtOwned<OrtIoBinding> new_binding(OrtSession* session, const std::string& where) {
  OrtIoBinding* binding = nullptr;
  ort_check(ort().CreateIoBinding(session, &binding), kFailed, where);
  return OrtOwned<OrtIoBinding>(binding);
}

const OrtValue* value_of(const Tensor& tensor) {
  if (const auto* made = dynamic_cast<const OrtTensor*>(&tensor)) return made->value();
  return dynamic_cast<const OrtCell&>(tensor).value();  // there are no others
}

// Returns the outputs of a binding that ran, in the order of `names`.
Tensors taken(const OrtIoBinding* binding, const std::vector<std::string>& names, const std::string& where) {
  OrtAllocator* allocator = ort_allocator();
  OrtValue** values = nullptr;
  std::size_t count = 0;
  ort_check(ort().GetBoundOutputValues(binding, allocator, &values, &count), kFailed, where);
  std::vector<OrtOwned<OrtValue>> owned;
  owned.reserve(count);
  for (std::size_t index = 0; index < count; ++index) owned.emplace_back(values[index]);
  allocator->Free(allocator, values);
  if (count != names.size())
    throw Error(AR_BACKEND_ERROR, "a graph did not give all of its outputs", {where, "", "", ""});
  Tensors tensors;
  for (std::size_t index = 0; index < count; ++index) {
    tensors[names[index]] = std::make_shared<OrtTensor>(std::move(owned[index]));
  }
  return tensors;
}

class OnnxRuntimeBound final : public Bound {
 public:
  // `all` are the graph's outputs; those that are tied to nothing are given in the host's memory.
  OnnxRuntimeBound(OrtSession* session, std::string name, const std::vector<std::string>& all, Tensors inputs,
                   Tensors outputs, bool on_cpu, const OrtMemoryInfo* host)
      : session_(session), name_(std::move(name)), all_(all), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
    binding_ = new_binding(session, name_);
    for (const auto& [input, tensor] : inputs_) {
      tie(input, *tensor);
      if (!on_cpu && dynamic_cast<const OrtCell*>(tensor.get()) != nullptr) copied_.push_back(input);
    }
    for (const std::string& output : all_) {
      const auto found = outputs_.find(output);
      ort_check(found != outputs_.end()
                    ? ort().BindOutput(binding_.get(), output.c_str(), value_of(*found->second))
                    : ort().BindOutputToDevice(binding_.get(), output.c_str(), host),
                kFailed, name_);
    }
  }

  Tensors run() override {
    for (const std::string& input : copied_) tie(input, *inputs_.at(input));
    ort_check(ort().RunWithBinding(session_, nullptr, binding_.get()), kFailed, name_);
    if (outputs_.size() == all_.size()) return {};
    Tensors free = taken(binding_.get(), all_, name_);
    for (const auto& [output, tensor] : outputs_) free.erase(output);
    return free;
  }

 private:
  void tie(const std::string& input, const Tensor& tensor) {
    ort_check(ort().BindInput(binding_.get(), input.c_str(), value_of(tensor)), kFailed, name_);
  }

  OrtSession* session_;  // the engine that made this lives longer
  std::string name_;
  std::vector<std::string> all_;
  Tensors inputs_, outputs_;
  OrtOwned<OrtIoBinding> binding_;
  std::vector<std::string> copied_;  // binding copies what lies on another device: once more before each run
};

}  // namespace

OnnxRuntimeSession::OnnxRuntimeSession(OrtOwned<OrtSession> session, std::string name, const EngineOptions& options)
    : session_(std::move(session)),
      name_(std::move(name)),
      on_cpu_(options.on_cpu()),
      device_index_(options.device_index()),
      device_(ort_memory(options)),
      host_(ort_host_memory()),
      inputs_(names(session_.get(), ort().SessionGetInputCount, ort().SessionGetInputName, name_)),
      outputs_(names(session_.get(), ort().SessionGetOutputCount, ort().SessionGetOutputName, name_)) {}

Tensors OnnxRuntimeSession::run(const Feeds& feeds, const std::vector<std::string>& on_host) const {
  const OrtOwned<OrtIoBinding> binding = new_binding(session_.get(), name_);
  std::vector<OrtOwned<OrtValue>> views;  // held until the run is over
  for (const auto& [input, feed] : feeds) {
    const OrtValue* value = nullptr;
    if (const auto* tensor = std::get_if<TensorPtr>(&feed)) {
      value = value_of(**tensor);
    } else {
      value = views.emplace_back(ort_view(std::get<Array>(feed))).get();
    }
    ort_check(ort().BindInput(binding.get(), input.c_str(), value), kFailed, name_);
  }
  for (const std::string& output : outputs_) {
    const bool here = std::find(on_host.begin(), on_host.end(), output) != on_host.end();
    const OrtMemoryInfo* memory = here ? host_.get() : device_.get();
    ort_check(ort().BindOutputToDevice(binding.get(), output.c_str(), memory), kFailed, name_);
  }
  ort_check(ort().RunWithBinding(session_.get(), nullptr, binding.get()), kFailed, name_);
  return taken(binding.get(), outputs_, name_);
}

std::unique_ptr<Bound> OnnxRuntimeSession::bind(const Tensors& inputs, const Tensors& outputs) const {
  return std::make_unique<OnnxRuntimeBound>(session_.get(), name_, outputs_, inputs, outputs, on_cpu_, host_.get());
}

std::shared_ptr<Cell> OnnxRuntimeSession::cell(const Array& values) const { return std::make_shared<OrtCell>(values); }

OnnxRuntimeSession::Described OnnxRuntimeSession::described(const std::string& input, const Shape& shape) const {
  const auto found = std::find(inputs_.begin(), inputs_.end(), input);
  if (found == inputs_.end()) {
    throw Error(AR_BACKEND_ERROR, "a graph does not take what it should", {name_, "", input, ""});
  }
  OrtTypeInfo* raw = nullptr;
  ort_check(ort().SessionGetInputTypeInfo(session_.get(), static_cast<std::size_t>(found - inputs_.begin()), &raw),
            kFailed, name_);
  const OrtOwned<OrtTypeInfo> info(raw);
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;  // belongs to `info`
  ort_check(ort().CastTypeInfoToTensorInfo(raw, &tensor), kFailed, name_);
  std::size_t rank = 0;
  if (tensor != nullptr) ort_check(ort().GetDimensionsCount(tensor, &rank), kFailed, name_);
  Described wanted{Kind::kOther, shape};
  if (rank == shape.size()) {
    Shape stated(rank);
    ONNXTensorElementDataType type{};
    ort_check(ort().GetDimensions(tensor, stated.data(), rank), kFailed, name_);
    ort_check(ort().GetTensorElementType(tensor, &type), kFailed, name_);
    wanted.kind = ort_kind(type);
    for (std::size_t axis = 0; axis < rank; ++axis) {
      if (shape[axis] < 0) wanted.shape[axis] = stated[axis];
    }
  }
  if (wanted.kind != Kind::kOther && std::find(wanted.shape.begin(), wanted.shape.end(), -1) == wanted.shape.end()) {
    return wanted;
  }
  throw Error(AR_BACKEND_ERROR, "a graph takes another tensor than it should", {name_ + ": " + input, "", "", ""});
}

TensorPtr OnnxRuntimeSession::zeros(const std::string& input, const Shape& shape) const {
  const Described wanted = described(input, shape);
  if (!on_cpu_) return ort_device_zeros(session_.get(), device_.get(), device_index_, wanted.kind, wanted.shape);
  return ort_tensor(wanted.kind, wanted.shape, std::make_shared<const OrtMemory>(ort_bytes(wanted.kind, wanted.shape)));
}

std::unique_ptr<Slots> OnnxRuntimeSession::slots(const std::string& input, int64_t sequences, int64_t rows) const {
  const Shape shape = {sequences, -1, rows, -1};
  if (!on_cpu_ && sequences > 1) {
    throw Error(AR_ENGINE_UNAVAILABLE, "ONNX Runtime batches sequences on the CPU alone",
                {name_, std::to_string(sequences), "1", "send requests one by one, or load with device cpu"});
  }
  if (!on_cpu_) return std::make_unique<OneSlot>(zeros(input, shape));
  const Described wanted = described(input, shape);
  return std::make_unique<OrtSlots>(wanted.kind, wanted.shape);
}

}  // namespace ar
