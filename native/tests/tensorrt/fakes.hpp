// What TensorRT would hand to a plugin, made up: expressions, a registry, a logger. Nothing of libnvinfer is needed.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace ar::tensorrt::testing {

namespace api = nvinfer1::apiv;

// A dimension of one run: a number.
class Dimension final : public nvinfer1::IDimensionExpr, public api::VDimensionExpr {
 public:
  explicit Dimension(std::int64_t value) : value_(value) { mImpl = this; }
  Dimension(const Dimension&) = delete;

 private:
  bool isConstant() const override { return true; }
  std::int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }
  std::int64_t value_;
};

class Builder final : public nvinfer1::IExprBuilder, public api::VExprBuilder {
 public:
  Builder() { mImpl = this; }

 private:
  nvinfer1::IDimensionExpr const* constant(std::int64_t value) override { return &made_.emplace_back(value); }
  nvinfer1::IDimensionExpr const* operation(nvinfer1::DimensionOperation operation,
                                            nvinfer1::IDimensionExpr const& first,
                                            nvinfer1::IDimensionExpr const& second) override {
    const std::int64_t a = first.getConstantValue(), b = second.getConstantValue();
    switch (operation) {
      case nvinfer1::DimensionOperation::kSUM: return constant(a + b);
      case nvinfer1::DimensionOperation::kSUB: return constant(a - b);
      default: return nullptr;
    }
  }
  nvinfer1::IDimensionExpr const* declareSizeTensor(std::int32_t, nvinfer1::IDimensionExpr const&,
                                                    nvinfer1::IDimensionExpr const&) override {
    return nullptr;  // sizes by values
  }
  std::deque<Dimension> made_;
};

// Keeps what is registered. Methods that only one major version has are not marked as overriding.
class Registry final : public nvinfer1::IPluginRegistry {
 public:
  bool refuses = false;
  std::vector<nvinfer1::IPluginCreatorInterface*> creators;
  std::string name_space;

  bool registerCreator(nvinfer1::IPluginCreatorInterface& creator, char const* where) noexcept override {
    if (refuses) return false;
    creators.push_back(&creator);
    name_space = where;
    return true;
  }
  nvinfer1::IPluginCreatorInterface* const* getAllCreators(std::int32_t* count) const noexcept override {
    *count = static_cast<std::int32_t>(creators.size());
    return creators.data();
  }
  nvinfer1::IPluginCreatorInterface* const* getAllCreatorsRecursive(std::int32_t* count) noexcept {
    return getAllCreators(count);
  }
  nvinfer1::IPluginCreatorInterface* getCreator(char const*, char const*, char const*) noexcept override {
    return nullptr;
  }
  bool deregisterCreator(nvinfer1::IPluginCreatorInterface const&) noexcept override { return false; }
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  void* loadLibrary(char const* path) noexcept override {
    return std::string(path).find("refused") == std::string::npos ? this : nullptr;
  }
  void deregisterLibrary(void*) noexcept override {}
  nvinfer1::IPluginResource* acquirePluginResource(char const*, nvinfer1::IPluginResource*) noexcept override {
    return nullptr;
  }
  std::int32_t releasePluginResource(char const*) noexcept override { return 0; }
  // TensorRT 10's, of plugins that we do not write.
  bool registerCreator(nvinfer1::IPluginCreator&, char const*) noexcept { return false; }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept { return nullptr; }
  nvinfer1::IPluginCreator* getPluginCreator(char const*, char const*, char const*) noexcept { return nullptr; }
  bool deregisterCreator(nvinfer1::IPluginCreator const&) noexcept { return false; }
};

// Collects what is reported while it lives.
class Log final : public nvinfer1::ILoggerFinder, public nvinfer1::ILogger {
 public:
  std::vector<std::string> errors;

 private:
  nvinfer1::ILogger* findLogger() override { return this; }
  void log(Severity severity, char const* message) noexcept override {
    if (severity == Severity::kERROR) errors.emplace_back(message);
  }
};

}  // namespace ar::tensorrt::testing
