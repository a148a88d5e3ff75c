#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "tensorrt/plugin.hpp"

namespace ar::tensorrt {
namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

std::string failure(const std::string& what, const std::string& got, const std::string& wanted) {
  return std::string(gather::kName) + ": " + what + "; where: the plugin's fields; got: " + got + "; wanted: " + wanted;
}

// Reads k from the fields, or says why not. The parser gives 32 bits, as the field says; others may give 64.
std::string read_budget(const nvinfer1::PluginFieldCollection* fields, std::int64_t* k) {
  for (std::int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const nvinfer1::PluginField& field = fields->fields[i];
    if (std::strcmp(field.name, gather::kBudget) != 0) continue;
    if (field.data == nullptr || field.length != 1) {
      return failure("k is not one integer", std::to_string(field.length) + " values", "one");
    }
    if (field.type == nvinfer1::PluginFieldType::kINT64) {
      *k = *static_cast<const std::int64_t*>(field.data);
    } else if (field.type == nvinfer1::PluginFieldType::kINT32) {
      *k = *static_cast<const std::int32_t*>(field.data);
    } else {
      return failure("k has a wrong type", std::to_string(static_cast<int>(field.type)), "kINT32 or kINT64");
    }
    return "";
  }
  return failure("k is missing", "no field of that name", "k, an integer");
}

std::string check_budget(std::int64_t k) {
  if (k <= gather::kMaxTokens) return gather::check_budget(k);
  return failure("k is too large", std::to_string(k), "at most " + std::to_string(gather::kMaxTokens));
}

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

Creator::Creator() : field_(gather::kBudget, nullptr, nvinfer1::PluginFieldType::kINT32, 1) { fields_ = {1, &field_}; }

nvinfer1::IPluginV3* Creator::createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const* fields,
                                           nvinfer1::TensorRTPhase) noexcept {
  std::int64_t k = 0;
  std::string error = read_budget(fields, &k);
  if (error.empty()) error = check_budget(k);
  if (error.empty()) return new (std::nothrow) Plugin(static_cast<std::int32_t>(k));
  report(error);
  return nullptr;
}

Creator& creator() {
  static Creator only;
  return only;
}

}  // namespace ar::tensorrt
