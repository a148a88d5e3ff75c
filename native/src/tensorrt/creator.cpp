#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "tensorrt/plugin.hpp"

namespace ar::tensorrt {
namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void report(const std::string& message) noexcept {
  try {
    nvinfer1::ILogger* logger = logger_finder == nullptr ? nullptr : logger_finder->findLogger();
    if (logger != nullptr) return logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
  } catch (const std::exception&) {
    // findLogger() may throw; the message is written below
  }
  std::fprintf(stderr, "%s\n", message.c_str());
}

nvinfer1::IPluginV3* Creator::createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const*,
                                           nvinfer1::TensorRTPhase phase) noexcept {
  auto* made = new (std::nothrow) Plugin(phase);
  if (made == nullptr) report(std::string(gather::kName) + ": no memory for a plugin");
  return made;
}

Creator& creator() {
  static Creator only;
  return only;
}

}  // namespace ar::tensorrt
