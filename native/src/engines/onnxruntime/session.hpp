// A session of ONNX Runtime behind the seam of backend.hpp.
#pragma once

#include <string>
#include <vector>

#include "engines/onnxruntime/values.hpp"

namespace ar {

class OnnxRuntimeSession final : public Session {
 public:
  // `name` is the graph's file, for messages.
  OnnxRuntimeSession(OrtOwned<OrtSession> session, std::string name, const EngineOptions& options);
  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }
  Tensors run(const Feeds& feeds, const std::vector<std::string>& on_host) const override;
  std::unique_ptr<Bound> bind(const Tensors& inputs, const Tensors& outputs) const override;
  std::shared_ptr<Cell> cell(const Array& values) const override;
  TensorPtr zeros(const std::string& input, const Shape& shape) const override;
  std::unique_ptr<Slots> slots(const std::string& input, int64_t sequences, int64_t rows) const override;

 private:
  struct Described {
    Kind kind = Kind::kOther;
    Shape shape;  // as the graph states it, -1 where it does not
  };
  // Returns an input's kind, and the shape that is asked for. Throws AR_BACKEND_ERROR: the graph's input is another.
  Described described(const std::string& input, const Shape& shape) const;

  OrtOwned<OrtSession> session_;
  std::string name_;
  bool on_cpu_;
  int device_index_;
  OrtOwned<OrtMemoryInfo> device_, host_;
  std::vector<std::string> inputs_, outputs_;
};

}  // namespace ar
