#include "engines/tensorrt/session.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "contract/error.hpp"
#include "contract/tensors.hpp"

namespace ar {
namespace {

constexpr int kCaptured = 0;  // the profile whose work is captured: builders put the narrowest first

std::string text_of(const Shape& shape) {
  std::string text = "[";
  for (std::size_t index = 0; index < shape.size(); ++index) {
    text.append(index == 0 ? "" : ", ").append(std::to_string(shape[index]));
  }
  return text + "]";
}

std::size_t bytes_of(Kind kind, const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), kind_bytes(kind),
                         [](std::size_t product, int64_t size) { return product * static_cast<std::size_t>(size); });
}

bool inside(const Shape& shape, const PlanRange& range) {
  if (shape.size() != range.low.size() || shape.size() != range.high.size()) return false;
  for (std::size_t index = 0; index < shape.size(); ++index) {
    if (shape[index] < range.low[index] || shape[index] > range.high[index]) return false;
  }
  return true;
}

Array array_of(const Feed& feed) {
  const TensorPtr* const tensor = std::get_if<TensorPtr>(&feed);
  return tensor != nullptr ? Array{(*tensor)->kind(), (*tensor)->shape(), (*tensor)->data()} : std::get<Array>(feed);
}

// Returns the sum of int64 values in the host's memory.
int64_t total(const Feed& feed, const std::string& where) {
  const Array values = array_of(feed);
  const std::size_t bytes = bytes_of(values.kind, values.shape);
  if (values.kind != Kind::kInt64 || (values.data == nullptr && bytes != 0)) {
    throw Error(AR_BACKEND_ERROR, "what sizes a plan is no number in the host's memory",
                {where, kind_name(values.kind), kind_name(Kind::kInt64), ""});
  }
  const auto* const first = static_cast<const int64_t*>(values.data);
  return std::accumulate(first, first + bytes / sizeof(int64_t), int64_t{0});
}

// A plan's only sequence.
class TensorRtSlots final : public Slots {
 public:
  explicit TensorRtSlots(TensorPtr whole) : whole_(std::move(whole)) {}
  TensorPtr first(int64_t) const override { return whole_; }
  TensorPtr row(int64_t) const override { return whole_; }
  void move(int64_t, int64_t) override {}  // there is nowhere else

 private:
  TensorPtr whole_;
};

// A session with every input and output tied to memory, which it holds on to. Outputs that a caller tied to nothing are
// in memory of the binding, and what was given of them changes with the next run.
class TensorRtBound final : public Bound {
 public:
  struct Parts {
    std::unique_ptr<PlanContext> context;
    std::unique_ptr<DeviceStream> stream;
    std::vector<std::shared_ptr<const Tensor>> held;
    std::vector<const DeviceTensor*> written, read;  // which are copied before and after each run
    Tensors free;                                    // outputs that were tied to nothing
    bool captures = false;
  };
  TensorRtBound(std::shared_ptr<Device> device, Parts parts) : device_(std::move(device)), parts_(std::move(parts)) {}

  Tensors run() override {
    device_->use();
    for (const DeviceTensor* cell : parts_.written) cell->write(*parts_.stream);
    step();
    for (const DeviceTensor* each : parts_.read) each->read(*parts_.stream);
    parts_.stream->wait();
    ran_ = true;
    return parts_.free;
  }

 private:
  void step() {
    if (ran_ && parts_.captures && !work_) {
      work_ = parts_.stream->capture([this] { parts_.context->enqueue(*parts_.stream); });
    }
    if (work_) {
      work_->launch();
    } else {
      parts_.context->enqueue(*parts_.stream);
    }
  }

  std::shared_ptr<Device> device_;  // outlives what lies on it
  Parts parts_;
  std::unique_ptr<CapturedWork> work_;
  bool ran_ = false;
};

}  // namespace

DeviceTensor::DeviceTensor(Device& device, Kind kind, Shape shape)
    : kind_(kind), shape_(std::move(shape)), bytes_(bytes_of(kind_, shape_)), memory_(device.memory(bytes_)) {}

void DeviceTensor::mirror() {
  if (!host_) host_ = std::make_unique<unsigned char[]>(bytes_);
}

void DeviceTensor::make_cell() {
  mirror();
  is_cell_ = true;
}

TensorRtSession::TensorRtSession(std::string name, std::unique_ptr<PlanEngine> engine, std::shared_ptr<Device> device)
    : name_(std::move(name)), device_(std::move(device)), engine_(std::move(engine)) {
  device_->use();
  stream_ = device_->stream();
  for (const PlanPort& port : engine_->ports()) {
    if (kind_bytes(port.kind) == 0) {
      throw Error(AR_BACKEND_ERROR, "a plan has a tensor of a type that this runtime does not know",
                  {name_ + ", " + port.name, "", "", ""});
    }
    kinds_[port.name] = port.kind;
    if (port.name != kTokensToKeep) (port.is_input ? inputs_ : outputs_).push_back(port.name);
  }
}

Tensors TensorRtSession::run(const Feeds& feeds, const std::vector<std::string>& on_host) const {
  device_->use();
  const std::lock_guard lock(running_);
  const Placed inputs = placed(feeds, *stream_);
  if (!context_) context_ = engine_->context();
  set_inputs(*context_, inputs, *stream_);
  Tensors outputs;
  std::vector<std::shared_ptr<DeviceTensor>> read;
  for (const std::string& name : outputs_) {
    auto made = std::make_shared<DeviceTensor>(*device_, kind_of(name), context_->shape(name));
    context_->set_address(name, made->address());
    if (std::find(on_host.begin(), on_host.end(), name) != on_host.end()) read.push_back(made);
    outputs[name] = std::move(made);
  }
  context_->enqueue(*stream_);
  for (const auto& tensor : read) {
    tensor->mirror();
    tensor->read(*stream_);
  }
  stream_->wait();
  return outputs;
}

std::unique_ptr<Bound> TensorRtSession::bind(const Tensors& inputs, const Tensors& outputs) const {
  device_->use();
  TensorRtBound::Parts parts;
  parts.context = engine_->context();
  parts.stream = device_->stream();
  const Placed given = placed({inputs.begin(), inputs.end()}, *parts.stream);
  for (const auto& [name, input] : given) {
    if (input->is_cell()) parts.written.push_back(input.get());
    parts.held.push_back(input);
  }
  parts.captures = set_inputs(*parts.context, given, *parts.stream) == kCaptured && captures_;
  for (const auto& [name, tensor] : outputs) {
    const DeviceTensor& output = bound_output(*parts.context, name, *tensor);
    parts.context->set_address(name, output.address());
    if (output.is_cell()) parts.read.push_back(&output);
    parts.held.push_back(tensor);
  }
  for (const std::string& name : outputs_) {
    if (outputs.count(name) != 0) continue;
    auto made = std::make_shared<DeviceTensor>(*device_, kind_of(name), parts.context->shape(name));
    made->mirror();
    parts.context->set_address(name, made->address());
    parts.read.push_back(made.get());
    parts.free[name] = std::move(made);
  }
  parts.stream->wait();  // for what was copied from elsewhere
  return std::make_unique<TensorRtBound>(device_, std::move(parts));
}

std::shared_ptr<Cell> TensorRtSession::cell(const Array& values) const {
  device_->use();
  auto made = std::make_shared<DeviceTensor>(*device_, values.kind, values.shape);
  made->make_cell();
  if (made->bytes() != 0) std::memcpy(made->values(), values.data, made->bytes());
  return made;
}

TensorPtr TensorRtSession::zeros(const std::string& input, const Shape& shape) const {
  device_->use();
  kind_of(input);  // that there is such an input
  Shape extents = engine_->range(input, kCaptured).high;
  for (std::size_t index = 0; index < std::min(shape.size(), extents.size()); ++index) {
    if (shape[index] != -1) extents[index] = shape[index];
  }
  const std::vector<unsigned char> values(bytes_of(kind_of(input), extents));
  const std::lock_guard lock(running_);
  const auto made = place(input, Array{kind_of(input), extents, values.data()}, *stream_);
  stream_->wait();
  return made;
}

std::unique_ptr<Slots> TensorRtSession::slots(const std::string& input, int64_t sequences, int64_t rows) const {
  if (sequences > 1) {
    throw Error(AR_ENGINE_UNAVAILABLE, "a plan holds one sequence", {name_, std::to_string(sequences), "1", ""});
  }
  TensorPtr whole = zeros(input, {-1, -1, -1, -1});
  const int64_t capacity = whole->shape().at(2);
  if (rows > capacity) {
    throw Error(AR_BACKEND_ERROR, "prompt and answer are longer than the caches of this plan",
                {name_ + ", " + input, std::to_string(rows), "up to " + std::to_string(capacity),
                 "keep fewer image tokens, or build the bundle with higher limits"});
  }
  return std::make_unique<TensorRtSlots>(std::move(whole));
}

void TensorRtSession::try_capture(const Ties& ties, const Log& log) {
  device_->use();
  const std::unique_ptr<DeviceStream> stream = device_->stream();
  const std::unique_ptr<PlanContext> context = engine_->context();
  Placed held;
  const auto zeros = [&](const std::string& name, const Shape& shape) {
    const std::vector<unsigned char> values(bytes_of(kind_of(name), shape));
    held[name] = place(name, Array{kind_of(name), shape, values.data()}, *stream);
    stream->wait();
  };
  for (const PlanPort& port : engine_->ports()) {
    if (port.is_input) zeros(port.name, engine_->range(port.name, kCaptured).low);
  }
  set_inputs(*context, held, *stream);
  for (const std::string& name : outputs_) {
    const auto tie = ties.find(name);
    if (tie == ties.end()) zeros(name, context->shape(name));
    context->set_address(name, held.at(tie == ties.end() ? name : tie->second)->address());
  }
  context->enqueue(*stream);
  stream->wait();
  try {
    stream->capture([&] { context->enqueue(*stream); });
    captures_ = true;
  } catch (const Error& error) {
    note(log, Level::kWarning,
         std::string("new tokens are enqueued one by one, which is slower: ") + error.what());
  }
}

Kind TensorRtSession::kind_of(const std::string& port) const {
  const auto found = kinds_.find(port);
  if (found != kinds_.end()) return found->second;
  throw Error(AR_BACKEND_ERROR, "a plan has no such tensor", {name_, quoted(port), "", ""});
}

// Returns all inputs on the GPU, with lengths in the place of numbers; nobody reads the values there.
TensorRtSession::Placed TensorRtSession::placed(const Feeds& feeds, DeviceStream& stream) const {
  Placed found;
  const auto length = [&](const char* input, const char* number) {
    const auto given = feeds.find(number);
    if (kinds_.count(input) == 0 || given == feeds.end()) return;
    const Shape shape = {total(given->second, name_ + ", " + number)};
    found[input] = std::make_shared<DeviceTensor>(*device_, kind_of(input), shape);
  };
  length(tensors::kLogitsToKeep, tensors::kLogitsToKeep);
  length(kTokensToKeep, tensors::kKeepCounts);
  for (const auto& [name, feed] : feeds) {
    if (found.count(name) == 0) found[name] = place(name, feed, stream);
  }
  return found;
}

// Returns the first profile in which all shapes lie: builders put the narrowest first.
int TensorRtSession::profile(const Placed& inputs) const {
  std::string misfit;
  PlanRange wanted;
  for (int index = 0; index < engine_->profiles(); ++index) {
    misfit.clear();
    for (const auto& [name, tensor] : inputs) {
      PlanRange range = engine_->range(name, index);
      if (!misfit.empty() || inside(tensor->shape(), range)) continue;
      misfit = name;
      wanted = std::move(range);
    }
    if (misfit.empty()) return index;
  }
  if (misfit.empty()) throw Error(AR_BACKEND_ERROR, "a plan has no profile", {name_, "", "", ""});
  throw Error(AR_BACKEND_ERROR, "a plan was not built for this size",
              {name_ + ", " + misfit, text_of(inputs.at(misfit)->shape()),
               text_of(wanted.low) + " to " + text_of(wanted.high), ""});
}

// Sets profile, shapes and addresses of all inputs; returns the profile.
int TensorRtSession::set_inputs(PlanContext& context, const Placed& inputs, DeviceStream& stream) const {
  const int index = profile(inputs);
  context.set_profile(index, stream);
  for (const auto& [name, tensor] : inputs) {
    context.set_shape(name, tensor->shape());
    context.set_address(name, tensor->address());
  }
  return index;
}

// Returns a tensor on the GPU: the same, or a copy of what comes from elsewhere, which is in the stream's queue.
std::shared_ptr<const DeviceTensor> TensorRtSession::place(const std::string& port, const Feed& feed,
                                                           DeviceStream& stream) const {
  const Array values = array_of(feed);
  if (values.kind != kind_of(port)) {
    throw Error(AR_BACKEND_ERROR, "a tensor has not the type of a plan",
                {name_ + ", " + port, kind_name(values.kind), kind_name(kind_of(port)), ""});
  }
  if (const auto* const tensor = std::get_if<TensorPtr>(&feed)) {
    if (auto here = std::dynamic_pointer_cast<const DeviceTensor>(*tensor)) return here;
  }
  auto copy = std::make_shared<DeviceTensor>(*device_, values.kind, values.shape);
  if (copy->bytes() != 0) stream.write(copy->address(), values.data, copy->bytes());
  return copy;
}

// Returns an output's memory, after checking that it is ours and of the size that the plan gives.
const DeviceTensor& TensorRtSession::bound_output(const PlanContext& context, const std::string& port,
                                                  const Tensor& tensor) const {
  const Shape wanted = context.shape(port);
  const auto* const here = dynamic_cast<const DeviceTensor*>(&tensor);
  if (here != nullptr && tensor.kind() == kind_of(port) && tensor.shape() == wanted) return *here;
  throw Error(AR_BACKEND_ERROR, "a tensor has not the size that a plan gives, or not its type, or lies elsewhere",
              {name_ + ", " + port, text_of(tensor.shape()) + " " + kind_name(tensor.kind()),
               text_of(wanted) + " " + kind_name(kind_of(port)), ""});
}

}  // namespace ar
