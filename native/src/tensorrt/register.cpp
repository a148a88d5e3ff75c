// What the plugin library exports: both ways by which TensorRT, or a program for it, gets the creator.
//
// By path: IPluginRegistry::loadLibrary and trtexec --dynamicPlugins call getCreators and setLoggerFinder.
// By registry: allrounder_register_tensorrt_plugins, which include/allrounder/tensorrt_plugin.h describes.
#include <algorithm>

#include "allrounder/tensorrt_plugin.h"
#include "tensorrt/plugin.hpp"

namespace {

#define AR_TEXT_OF(value) #value
#define AR_TEXT(value) AR_TEXT_OF(value)
constexpr char kOtherMajor[] = "TokenGather: this plugin is of another major version of TensorRT; wanted: " AR_TEXT(
    NV_TENSORRT_MAJOR) "; remedy: build it with the headers of the TensorRT that is loaded";
constexpr int kVersionsOfMajor = 10000;  // 10.3.0 is 100300

bool holds(const nvinfer1::IPluginRegistry& registry, const nvinfer1::IPluginCreatorInterface& creator) {
  std::int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* const all = registry.getAllCreators(&count);
  return std::find(all, all + count, &creator) != all + count;
}

}  // namespace

#define AR_EXPORTED extern "C" __attribute__((visibility("default")))

AR_EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&ar::tensorrt::creator()};
  count = 1;
  return creators;
}

AR_EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { ar::tensorrt::set_logger_finder(finder); }

AR_EXPORTED const char* allrounder_register_tensorrt_plugins(void* registry, int version) {
  // Before the first call by the registry's table of functions, which differs between major versions.
  if (version / kVersionsOfMajor != NV_TENSORRT_MAJOR) return kOtherMajor;
  if (registry == nullptr) return "TokenGather: no plugin registry; got: null; wanted: that of getPluginRegistry()";
  auto& into = *static_cast<nvinfer1::IPluginRegistry*>(registry);
  nvinfer1::IPluginCreatorInterface& creator = ar::tensorrt::creator();
  if (holds(into, creator) || into.registerCreator(creator, ar::gather::kDomain)) return nullptr;
  return "TokenGather: TensorRT's plugin registry refuses the creator; its logger has the reason";
}
