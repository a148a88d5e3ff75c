#include <cstdio>
#include <exception>

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

}  // namespace ar::tensorrt
