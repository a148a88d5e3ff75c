#include "tensorrt/plugin.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <string>
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
  if (inputs == Plugin::kInputs && outputs == Plugin::kOutputs) return "";
  return std::string(gather::kName) + ": wrong number of tensors; got: " + std::to_string(inputs) + " inputs, " +
         std::to_string(outputs) + " outputs; wanted: " + std::to_string(Plugin::kInputs) + " and " +
         std::to_string(Plugin::kOutputs);
}

std::string check_rank(const char* name, std::int32_t rank, std::int32_t wanted) {
  if (rank == wanted) return "";
  return std::string(gather::kName) + ": " + name + " has a wrong rank; got: " + std::to_string(rank) +
         "; wanted: " + std::to_string(wanted);
}

std::string check_tokens(std::int64_t to_keep, std::int64_t tokens) {
  if (to_keep <= tokens) return "";
  return std::string(gather::kName) + ": tokens_to_keep is too long; got: T = " + std::to_string(to_keep) +
         "; wanted: at most N = " + std::to_string(tokens);
}

std::string check_kept(std::size_t kept, std::int64_t to_keep) {
  if (static_cast<std::int64_t>(kept) == to_keep) return "";
  return std::string(gather::kName) + ": keep_counts and tokens_to_keep differ; got: " + std::to_string(kept) +
         " tokens by keep_counts; wanted: T = " + std::to_string(to_keep) + ", the length of tokens_to_keep";
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
    copy = new Plugin(*this);
    return "";
  });
  return copy;
}

std::int32_t Plugin::getOutputDataTypes(DataType* outputs, std::int32_t output_count, DataType const* inputs,
                                        std::int32_t input_count) const noexcept {
  return guard([&] {
    std::string error = check_arity(input_count, output_count);
    if (!error.empty()) return error;
    std::fill_n(outputs, kOutputs, DataType::kINT64);
    outputs[0] = inputs[0];
    return error;
  });
}

std::int32_t Plugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t input_count,
                                     nvinfer1::DimsExprs const*, std::int32_t, nvinfer1::DimsExprs* outputs,
                                     std::int32_t output_count, nvinfer1::IExprBuilder& build) noexcept {
  return guard([&] {
    std::string error = check_arity(input_count, output_count);
    if (!error.empty()) return error;
    const nvinfer1::DimsExprs &hidden = inputs[0], &positions = inputs[1], &scores = inputs[2];
    const nvinfer1::DimsExprs& tokens = inputs[kTokensToKeep];
    error = check_rank("hidden", hidden.nbDims, 3);
    if (error.empty()) error = check_rank("position_ids", positions.nbDims, 3);
    if (error.empty()) error = check_rank("scores", scores.nbDims, 1);
    if (error.empty()) error = check_rank("tokens_to_keep", tokens.nbDims, 1);
    if (!error.empty()) return error;
    using nvinfer1::DimensionOperation;
    const auto* others = build.operation(DimensionOperation::kSUB, *hidden.d[1], *scores.d[0]);
    const auto* rows = build.operation(DimensionOperation::kSUM, *others, *tokens.d[0]);
    outputs[0] = {3, {hidden.d[0], rows, hidden.d[2]}};
    outputs[1] = {3, {positions.d[0], positions.d[1], rows}};
    outputs[2] = {1, {tokens.d[0]}};
    return error;
  });
}

bool Plugin::supportsFormatCombination(std::int32_t index, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                       std::int32_t, std::int32_t) noexcept {
  const nvinfer1::PluginTensorDesc& tensor = tensors[index].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  switch (index) {
    case 0: return tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF || tensor.type == DataType::kBF16;
    case 2: return tensor.type == DataType::kFLOAT;
    case kInputs: return tensor.type == tensors[0].desc.type;
    default: return tensor.type == DataType::kINT64;
  }
}

std::int32_t Plugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, std::int32_t input_count,
                                     nvinfer1::DynamicPluginTensorDesc const*, std::int32_t output_count) noexcept {
  return guard([&] { return check_arity(input_count, output_count); });
}

std::int32_t Plugin::onShapeChange(nvinfer1::PluginTensorDesc const* inputs, std::int32_t input_count,
                                   nvinfer1::PluginTensorDesc const*, std::int32_t output_count) noexcept {
  return guard([&] {
    std::string error = check_arity(input_count, output_count);
    if (!error.empty()) return error;
    std::array<gather::Dims, gather::kInputs.size()> dims;
    std::transform(inputs, inputs + kTokensToKeep, dims.begin(), [](const auto& input) { return dims_of(input.dims); });
    const auto checked = gather::check(dims);
    const nvinfer1::Dims& to_keep = inputs[kTokensToKeep].dims;
    error = checked.error;
    if (error.empty()) error = check_rank("tokens_to_keep", to_keep.nbDims, 1);
    if (error.empty()) error = check_tokens(to_keep.d[0], checked.shape.tokens);
    if (!error.empty()) return error;
    shape_ = checked.shape;
    tokens_to_keep_ = to_keep.d[0];
    return error;
  });
}

std::int32_t Plugin::enqueue(nvinfer1::PluginTensorDesc const* input_descs, nvinfer1::PluginTensorDesc const*,
                             void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept {
  return guard([&] {
    const auto integers = [inputs](int index) { return static_cast<const std::int64_t*>(inputs[index]); };
    const auto written = [outputs](int index) { return static_cast<std::int64_t*>(outputs[index]); };
    const gather::Candidates candidates{static_cast<const float*>(inputs[2]), integers(3), integers(4), integers(5)};
    gather::Choice choice = gather::choose_cuda(shape_, candidates, stream);
    if (choice.error.empty()) choice.error = check_kept(choice.keep.size(), tokens_to_keep_);
    if (!choice.error.empty() && phase_ == nvinfer1::TensorRTPhase::kBUILD) {
      choice = gather::choose_first(shape_, tokens_to_keep_);
    }
    if (!choice.error.empty()) return choice.error;
    const std::size_t element_bytes = input_descs[0].type == DataType::kFLOAT ? 4 : 2;
    return gather::gather_cuda(shape_, choice, element_bytes,
                               {inputs[0], integers(1), outputs[0], written(1), written(2)}, stream);
  });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

}  // namespace ar::tensorrt
