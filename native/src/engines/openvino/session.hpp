// A session on OpenVINO's CPU plugin, behind the seam of backend.hpp; engines/openvino/session.py.
//
// A compiled graph may be run by one thread per infer request, so each run and each binding has a request of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engines/backend.hpp"
#include "engines/openvino/library.hpp"

namespace ar {

// A tensor in the host's memory, or a part of one.
class OpenVinoTensor final : public Cell {
 public:
  OpenVinoTensor(Kind kind, Shape shape);                                  // zeros
  OpenVinoTensor(const OpenVinoTensor& whole, Shape shape, int64_t from);  // from a row of its first axis on
  Kind kind() const override { return kind_; }
  Shape shape() const override { return shape_; }
  std::size_t bytes() const override { return bytes_; }
  const void* data() const override { return first_; }
  void* values() override { return first_; }
  void fill(const void* values) const;  // `bytes` of them

 private:
  Kind kind_;
  Shape shape_;
  std::size_t bytes_;
  std::shared_ptr<unsigned char[]> memory_;
  unsigned char* first_;
};

struct OpenVinoPort {  // an input or output of the graph as it was read
  std::string name;
  Kind kind;
  Shape extents;  // -1: any
};

class OpenVinoSession final : public Session {
 public:
  // `name` is the graph's file, for messages.
  OpenVinoSession(OpenVinoOwned<openvino::CompiledModel> compiled, std::string name,
                  std::vector<OpenVinoPort> inputs, const std::vector<OpenVinoPort>& outputs);
  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }
  Tensors run(const Feeds& feeds, const std::vector<std::string>& on_host) const override;
  std::unique_ptr<Bound> bind(const Tensors& inputs, const Tensors& outputs) const override;
  std::shared_ptr<Cell> cell(const Array& values) const override;
  TensorPtr zeros(const std::string& input, const Shape& shape) const override;
  std::unique_ptr<Slots> slots(const std::string& input, int64_t sequences, int64_t rows) const override;

 private:
  std::size_t index_of(const std::string& input) const;
  std::shared_ptr<OpenVinoTensor> made(const std::string& input, const Shape& shape) const;

  OpenVinoOwned<openvino::CompiledModel> compiled_;
  std::string name_;
  std::vector<OpenVinoPort> ports_;  // of the inputs
  std::vector<std::string> inputs_, outputs_;
};

// Returns the inputs or outputs of a graph. Throws AR_BACKEND_ERROR, for a type that is not known too.
std::vector<OpenVinoPort> openvino_inputs(const openvino::Model& model, const std::string& name);
std::vector<OpenVinoPort> openvino_outputs(const openvino::Model& model, const std::string& name);

}  // namespace ar
