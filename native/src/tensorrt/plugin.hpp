// allrounder::TokenGather as a TensorRT plugin (IPluginV3), one source for TensorRT 10 and 11.
//
// What it is: a thin adapter: types, shapes, and one call of the op for CUDA. It has one input more than the op, as
// engines/tensorrt/form.py adds it: sizes that follow from values would end the capture of steps as CUDA graphs, so T,
// and R = S - N + T with it, come as the length of `tokens_to_keep` [T], whose values nobody reads.
// What it knows: TensorRT's plugin interface, of which it uses headers alone: nothing of libnvinfer is linked.
// What it does not know: the rule, nor how the rows are gathered (gather/), nor who registers it (register.cpp).
#pragma once

#include <NvInferRuntime.h>

#include <string>

#include "gather/gather.hpp"

namespace ar::tensorrt {

// Reports what went wrong: by TensorRT's logger where it gave us one, else on stderr.
void report(const std::string& message) noexcept;
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// The interfaces name each other's methods in camel case; those keep their names here.
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit Plugin(nvinfer1::TensorRTPhase phase) : phase_(phase) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return gather::kName; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return gather::kVersion; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return gather::kDomain; }

  std::int32_t getNbOutputs() const noexcept override { return kOutputs; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                  nvinfer1::DataType const* inputs, std::int32_t input_count) const noexcept override;
  std::int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t input_count,
                               nvinfer1::DimsExprs const* shape_inputs, std::int32_t shape_input_count,
                               nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder& build) noexcept override;
  bool supportsFormatCombination(std::int32_t index, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                 std::int32_t input_count, std::int32_t output_count) noexcept override;
  std::int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t input_count,
                               nvinfer1::DynamicPluginTensorDesc const* outputs,
                               std::int32_t output_count) noexcept override;

  // Checks the shapes of the runs to come. No workspace is asked for.
  std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, std::int32_t input_count,
                             nvinfer1::PluginTensorDesc const* outputs, std::int32_t output_count) noexcept override;
  std::int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descs, nvinfer1::PluginTensorDesc const* output_descs,
                       void const* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override { return &fields_; }

  static constexpr std::int32_t kTokensToKeep = static_cast<std::int32_t>(gather::kInputs.size());
  static constexpr std::int32_t kInputs = kTokensToKeep + 1;
  static constexpr std::int32_t kOutputs = static_cast<std::int32_t>(gather::kOutputs.size());

 private:
  nvinfer1::TensorRTPhase phase_;    // a builder times runs over values that mean nothing: those are never refused
  gather::Shape shape_;              // of the runs since the last change
  std::int64_t tokens_to_keep_ = 0;  // T of the same
  nvinfer1::PluginFieldCollection fields_{};  // none
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return gather::kName; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return gather::kVersion; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return gather::kDomain; }
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &fields_; }
  // Any fields will do: the op has none of its own.
  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name, nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;

 private:
  nvinfer1::PluginFieldCollection fields_{};
};

// The one creator of this library.
Creator& creator();

}  // namespace ar::tensorrt
