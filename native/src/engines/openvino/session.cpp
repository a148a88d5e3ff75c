#include "engines/openvino/session.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <numeric>
#include <utility>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr const char* kFailed = "OpenVINO failed";

constexpr std::pair<Kind, openvino::ElementType> kKinds[] = {
    {Kind::kUint8, openvino::kU8},    {Kind::kBool, openvino::kBoolean}, {Kind::kInt64, openvino::kI64},
    {Kind::kFloat32, openvino::kF32}, {Kind::kFloat16, openvino::kF16},  {Kind::kBfloat16, openvino::kBf16},
};

openvino::ElementType type_of(Kind kind) {
  for (const auto& [known, type] : kKinds) {
    if (known == kind) return type;
  }
  throw Error(AR_INTERNAL, "values of this kind are never made here");
}

Kind kind_of(openvino::ElementType type, const std::string& where) {
  for (const auto& [kind, known] : kKinds) {
    if (known == type) return kind;
  }
  throw Error(AR_BACKEND_ERROR, "a graph has a tensor of a type that this runtime does not know",
              {where, "OpenVINO's type " + std::to_string(type), "", ""});
}

std::size_t bytes_of(Kind kind, const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), kind_bytes(kind),
                         [](std::size_t product, int64_t size) { return product * static_cast<std::size_t>(size); });
}

std::string text_of(const Shape& shape) {
  std::string text = "[";
  for (std::size_t index = 0; index < shape.size(); ++index) {
    text.append(index == 0 ? "" : ", ").append(std::to_string(shape[index]));
  }
  return text + "]";
}

OpenVinoPort port_of(openvino::Port* raw, const std::string& graph) {
  const openvino::Api& api = openvino_api();
  const OpenVinoOwned<openvino::Port> port(raw);
  OpenVinoPort found{};
  char* name = nullptr;
  openvino_check(api.ov_port_get_any_name(port.get(), &name), kFailed, graph);
  found.name = name;
  api.ov_free(name);
  openvino::ElementType type{};
  openvino_check(api.ov_port_get_element_type(port.get(), &type), kFailed, graph);
  found.kind = kind_of(type, graph + ": " + found.name);
  openvino::Spans spans{};
  openvino_check(api.ov_port_get_partial_shape(port.get(), &spans), kFailed, graph);
  const bool ranked = spans.rank.least == spans.rank.most;
  std::transform(spans.values, spans.values + (ranked ? spans.rank.most : 0), std::back_inserter(found.extents),
                 [](const openvino::Span& span) { return span.least == span.most ? span.least : -1; });
  api.ov_partial_shape_free(&spans);
  return found;
}

using Size = decltype(openvino::Api::ov_model_inputs_size);
using ByIndex = decltype(openvino::Api::ov_model_const_input_by_index);

std::vector<OpenVinoPort> ports_of(const openvino::Model& model, Size count, ByIndex port, const std::string& graph) {
  std::size_t size = 0;
  openvino_check(count(&model, &size), kFailed, graph);
  std::vector<OpenVinoPort> ports;
  for (std::size_t index = 0; index < size; ++index) {
    openvino::Port* raw = nullptr;
    openvino_check(port(&model, index, &raw), kFailed, graph);
    ports.push_back(port_of(raw, graph));
  }
  return ports;
}

// Values where they lie.
Array array_of(const Tensor& tensor) { return {tensor.kind(), tensor.shape(), tensor.data()}; }

Array array_of(const Feed& feed) {
  const auto* const tensor = std::get_if<TensorPtr>(&feed);
  return tensor != nullptr ? array_of(**tensor) : std::get<Array>(feed);
}

class Request {
 public:
  Request(const openvino::CompiledModel* compiled, const std::string& name) : name_(name) {
    openvino::InferRequest* raw = nullptr;
    openvino_check(openvino_api().ov_compiled_model_create_infer_request(compiled, &raw), kFailed, name_);
    request_.reset(raw);
  }

  // Lets an input be read where the values lie.
  void give(std::size_t index, const Array& values) {
    static unsigned char nothing = 0;  // the interface wants an address even where there are no values
    Shape shape = values.shape;
    void* const first = values.data != nullptr ? const_cast<void*>(values.data) : &nothing;  // inputs are only read
    openvino::OvTensor* raw = nullptr;
    openvino_check(openvino_api().ov_tensor_create_from_host_ptr(
                       type_of(values.kind), {static_cast<int64_t>(shape.size()), shape.data()}, first, &raw),
                   kFailed, name_);
    const OpenVinoOwned<openvino::OvTensor> tensor(raw);
    openvino_check(openvino_api().ov_infer_request_set_input_tensor_by_index(request_.get(), index, tensor.get()),
                   kFailed, name_);
  }

  void infer() { openvino_check(openvino_api().ov_infer_request_infer(request_.get()), kFailed, name_); }

  // Calls `take` with an output where it lies.
  template <class Take>
  void output(std::size_t index, Take take) const {
    const openvino::Api& api = openvino_api();
    openvino::OvTensor* raw = nullptr;
    openvino_check(api.ov_infer_request_get_output_tensor_by_index(request_.get(), index, &raw), kFailed, name_);
    const OpenVinoOwned<openvino::OvTensor> tensor(raw);
    openvino::ElementType type{};
    openvino_check(api.ov_tensor_get_element_type(tensor.get(), &type), kFailed, name_);
    openvino::Extents extents{};
    openvino_check(api.ov_tensor_get_shape(tensor.get(), &extents), kFailed, name_);
    const Shape shape(extents.values, extents.values + extents.rank);
    api.ov_shape_free(&extents);
    void* first = nullptr;
    if (bytes_of(kind_of(type, name_), shape) != 0) {
      openvino_check(api.ov_tensor_data(tensor.get(), &first), kFailed, name_);
    }
    take(Array{kind_of(type, name_), shape, first});
  }

 private:
  std::string name_;
  OpenVinoOwned<openvino::InferRequest> request_;
};

TensorPtr copy_of(const Array& values) {
  auto copy = std::make_shared<OpenVinoTensor>(values.kind, values.shape);
  copy->fill(values.data);
  return copy;
}

// Results are copied to where they were tied, which may be where an input is read from: the plugin computes into
// memory of its own, also where a request names other memory.
class OpenVinoBound final : public Bound {
 public:
  OpenVinoBound(Request request, std::string name, const std::vector<std::string>& names, Tensors inputs,
                Tensors outputs)
      : request_(std::move(request)),
        name_(std::move(name)),
        names_(names),
        inputs_(std::move(inputs)),
        outputs_(std::move(outputs)) {}

  Tensors run() override {
    request_.infer();
    Tensors free;
    for (std::size_t index = 0; index < names_.size(); ++index) {
      const auto tied = outputs_.find(names_[index]);
      request_.output(index, [&](const Array& found) {
        if (tied == outputs_.end()) {
          free[names_[index]] = copy_of(found);
        } else {
          put(found, *tied->second, names_[index]);
        }
      });
    }
    return free;
  }

 private:
  void put(const Array& found, const Tensor& target, const std::string& output) const {
    if (found.shape != target.shape() || found.kind != target.kind()) {
      throw Error(AR_BACKEND_ERROR, "OpenVINO gave another shape",
                  {name_ + ": " + output, text_of(found.shape) + " " + kind_name(found.kind),
                   text_of(target.shape()) + " " + kind_name(target.kind()), ""});
    }
    dynamic_cast<const OpenVinoTensor&>(target).fill(found.data);  // there are no others
  }

  Request request_;
  std::string name_;
  std::vector<std::string> names_;  // of all outputs
  Tensors inputs_, outputs_;
};

class OpenVinoSlots final : public Slots {
 public:
  explicit OpenVinoSlots(std::shared_ptr<OpenVinoTensor> whole) : whole_(std::move(whole)) {}
  TensorPtr first(int64_t sequences) const override { return part(0, sequences); }
  TensorPtr row(int64_t slot) const override { return part(slot, 1); }
  void move(int64_t from, int64_t to) override { part(to, 1)->fill(part(from, 1)->data()); }

 private:
  std::shared_ptr<const OpenVinoTensor> part(int64_t from, int64_t sequences) const {
    Shape shape = whole_->shape();
    shape[0] = sequences;
    return std::make_shared<OpenVinoTensor>(*whole_, std::move(shape), from);
  }

  std::shared_ptr<OpenVinoTensor> whole_;
};

}  // namespace

std::vector<OpenVinoPort> openvino_inputs(const openvino::Model& model, const std::string& name) {
  return ports_of(model, openvino_api().ov_model_inputs_size, openvino_api().ov_model_const_input_by_index, name);
}

std::vector<OpenVinoPort> openvino_outputs(const openvino::Model& model, const std::string& name) {
  return ports_of(model, openvino_api().ov_model_outputs_size, openvino_api().ov_model_const_output_by_index, name);
}

OpenVinoTensor::OpenVinoTensor(Kind kind, Shape shape)
    : kind_(kind),
      shape_(std::move(shape)),
      bytes_(bytes_of(kind_, shape_)),
      memory_(new unsigned char[bytes_ + 1]()),  // an address even where there is nothing
      first_(memory_.get()) {}

OpenVinoTensor::OpenVinoTensor(const OpenVinoTensor& whole, Shape shape, int64_t from)
    : kind_(whole.kind_), shape_(std::move(shape)), bytes_(bytes_of(kind_, shape_)), memory_(whole.memory_) {
  const std::size_t row = whole.bytes_ / static_cast<std::size_t>(whole.shape_.front());
  first_ = whole.first_ + row * static_cast<std::size_t>(from);
}

void OpenVinoTensor::fill(const void* values) const {
  if (bytes_ != 0) std::memmove(first_, values, bytes_);
}

OpenVinoSession::OpenVinoSession(OpenVinoOwned<openvino::CompiledModel> compiled, std::string name,
                                 std::vector<OpenVinoPort> inputs, const std::vector<OpenVinoPort>& outputs)
    : compiled_(std::move(compiled)), name_(std::move(name)), ports_(std::move(inputs)) {
  for (const OpenVinoPort& port : ports_) inputs_.push_back(port.name);
  for (const OpenVinoPort& port : outputs) outputs_.push_back(port.name);
}

std::size_t OpenVinoSession::index_of(const std::string& input) const {
  const auto found = std::find(inputs_.begin(), inputs_.end(), input);
  if (found != inputs_.end()) return static_cast<std::size_t>(found - inputs_.begin());
  throw Error(AR_BACKEND_ERROR, "a graph has no such input", {name_, quoted(input), "", ""});
}

Tensors OpenVinoSession::run(const Feeds& feeds, const std::vector<std::string>&) const {
  Request request(compiled_.get(), name_);
  for (const auto& [name, feed] : feeds) request.give(index_of(name), array_of(feed));
  request.infer();
  Tensors found;
  for (std::size_t index = 0; index < outputs_.size(); ++index) {
    request.output(index, [&](const Array& values) { found[outputs_[index]] = copy_of(values); });
  }
  return found;
}

std::unique_ptr<Bound> OpenVinoSession::bind(const Tensors& inputs, const Tensors& outputs) const {
  Request request(compiled_.get(), name_);
  for (const auto& [name, tensor] : inputs) request.give(index_of(name), array_of(*tensor));
  return std::make_unique<OpenVinoBound>(std::move(request), name_, outputs_, inputs, outputs);
}

std::shared_ptr<Cell> OpenVinoSession::cell(const Array& values) const {
  auto cell = std::make_shared<OpenVinoTensor>(values.kind, values.shape);
  cell->fill(values.data);
  return cell;
}

std::shared_ptr<OpenVinoTensor> OpenVinoSession::made(const std::string& input, const Shape& shape) const {
  const OpenVinoPort& port = ports_[index_of(input)];
  if (shape.size() != port.extents.size()) {
    throw Error(AR_BACKEND_ERROR, "a graph's input has another number of extents",
                {name_ + ": " + input, std::to_string(port.extents.size()), std::to_string(shape.size()), ""});
  }
  Shape extents = shape;
  std::transform(shape.begin(), shape.end(), port.extents.begin(), extents.begin(),
                 [](int64_t wanted, int64_t known) { return wanted == -1 ? known : wanted; });
  return std::make_shared<OpenVinoTensor>(port.kind, std::move(extents));
}

TensorPtr OpenVinoSession::zeros(const std::string& input, const Shape& shape) const { return made(input, shape); }

std::unique_ptr<Slots> OpenVinoSession::slots(const std::string& input, int64_t sequences, int64_t rows) const {
  return std::make_unique<OpenVinoSlots>(made(input, {sequences, -1, rows, -1}));
}

}  // namespace ar
