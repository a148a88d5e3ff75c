#include "tensorrt/plugin.hpp"

#include <exception>
#include <vector>

#include "gather/gather_cuda.hpp"

namespace ar::tensorrt {
namespace {

using nvinfer1::DataType;

constexpr std::int32_t kFailed = -1;

std::vector<std::int64_t> dims_of(const nvinfer1::Dims& dims) { return {dims.d, dims.d + dims.nbDims}; }

// Runs `body`, which returns what is wrong, empty where nothing is; reports it and returns TensorRT's status.
template <typename Body>
std::int32_t guard(Body body) noexcept {
  try {
    const std::string error = body();
    if (error.empty()) return 0;
    report(error);
  } catch (const std::exception& error) {
    report(std::string(gather::kName) + ": " + error.what());
  }
  return kFailed;
}

// One plugin's arity is fixed: TensorRT asks for nothing else, and a graph may.
std::string check_arity(std::int32_t inputs, std::int32_t outputs) {
  const auto wanted_inputs = static_cast<std::int32_t>(gather::kInputs.size());
  const auto wanted_outputs = static_cast<std::int32_t>(gather::kOutputs.size());
  if (inputs == wanted_inputs && outputs == wanted_outputs) return "";
  return std::string(gather::kName) + ": wrong number of tensors; got: " + std::to_string(inputs) + " inputs, " +
         std::to_string(outputs) + " outputs; wanted: " + std::to_string(wanted_inputs) + " and " +
         std::to_string(wanted_outputs);
}

}  // namespace

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  Plugin* copy = nullptr;
  guard([&] {
    copy = new Plugin(k_);
    copy->shape_ = shape_;
    return "";
  });
  return copy;
}

std::int32_t Plugin::getOutputDataTypes(DataType* outputs, std::int32_t output_count, DataType const* inputs,
                                        std::int32_t input_count) const noexcept {
  return guard([&] {
    std::string error = check_arity(input_count, output_count);
    if (!error.empty()) return error;
    outputs[0] = inputs[0];
    outputs[1] = outputs[2] = DataType::kINT64;
    return error;
  });
}

std::int32_t Plugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t input_count,
                                     nvinfer1::DimsExprs const*, std::int32_t, nvinfer1::DimsExprs* outputs,
                                     std::int32_t output_count, nvinfer1::IExprBuilder& build) noexcept {
  return guard([&] {
    std::string error = check_arity(input_count, output_count);
    if (!error.empty()) return error;
    const nvinfer1::DimsExprs& hidden = inputs[0];
    if (hidden.nbDims != 3) {
      error = std::string(gather::kName) + ": hidden has a wrong rank; got: " + std::to_string(hidden.nbDims);
      return error + "; wanted: 3";
    }
    const nvinfer1::IDimensionExpr* kept = build.constant(k_);
    outputs[0] = {3, {hidden.d[0], kept, hidden.d[2]}};
    outputs[1] = outputs[2] = {2, {hidden.d[0], kept}};
    return error;
  });
}

bool Plugin::supportsFormatCombination(std::int32_t index, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                       std::int32_t, std::int32_t) noexcept {
  const nvinfer1::PluginTensorDesc& tensor = tensors[index].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  switch (index) {
    case 0: return tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF || tensor.type == DataType::kBF16;
    case 1: return tensor.type == DataType::kFLOAT;
    case 3: return tensor.type == tensors[0].desc.type;
    default: return tensor.type == DataType::kINT64;
  }
}

std::int32_t Plugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t input_count,
                                     nvinfer1::DynamicPluginTensorDesc const*, std::int32_t output_count) noexcept {
  return guard([&] {
    const std::string error = check_arity(input_count, output_count);
    if (!error.empty()) return error;
    return gather::check(dims_of(inputs[0].max), dims_of(inputs[1].max), dims_of(inputs[2].max), k_).error;
  });
}

std::int32_t Plugin::onShapeChange(nvinfer1::PluginTensorDesc const* inputs, std::int32_t input_count,
                                   nvinfer1::PluginTensorDesc const*, std::int32_t output_count) noexcept {
  return guard([&] {
    std::string error = check_arity(input_count, output_count);
    if (!error.empty()) return error;
    const auto checked = gather::check(dims_of(inputs[0].dims), dims_of(inputs[1].dims), dims_of(inputs[2].dims), k_);
    shape_ = checked.shape;
    return checked.error;
  });
}

std::int32_t Plugin::enqueue(nvinfer1::PluginTensorDesc const* input_descs, nvinfer1::PluginTensorDesc const*,
                             void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept {
  return guard([&] {
    const std::size_t element_bytes = input_descs[0].type == DataType::kFLOAT ? 4 : 2;
    const gather::Tensors tensors{inputs[0],
                                  static_cast<const float*>(inputs[1]),
                                  static_cast<const std::int64_t*>(inputs[2]),
                                  outputs[0],
                                  static_cast<std::int64_t*>(outputs[1]),
                                  static_cast<std::int64_t*>(outputs[2])};
    return gather::gather_cuda(shape_, element_bytes, tensors, stream);
  });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

nvinfer1::PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept {
  field_ = {gather::kBudget, &k_, nvinfer1::PluginFieldType::kINT32, 1};
  fields_ = {1, &field_};
  return &fields_;
}

}  // namespace ar::tensorrt
