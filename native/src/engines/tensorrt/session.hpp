// A session on a TensorRT plan, behind the seam of backend.hpp; the logic of engines/tensorrt/plan_session.py.
//
// What it is: which profile a request takes, what is copied when, and when work is launched as captured before.
// What it knows: the two interfaces of seam.hpp. What it does not know: TensorRT, CUDA, what plans compute.
//
// Each binding has a context of its own, whose shapes and addresses stay. Its work is done once as it comes, as
// TensorRT wants it after shapes were set, then captured, and from then on launched as one. Whether a plan's work can
// be captured at all is found out by `try_capture`, while the engine is being opened.
//
// A plan takes two numbers as the length of an input (engines/tensorrt/form.py): how many rows' logits are wanted, and
// how many image tokens stay. Here they become one. A plan holds one sequence.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engines/backend.hpp"
#include "engines/tensorrt/seam.hpp"

namespace ar {

// A tensor on the GPU, with a copy on the host where it is read or written there.
class DeviceTensor final : public Cell {
 public:
  DeviceTensor(Device& device, Kind kind, Shape shape);
  Kind kind() const override { return kind_; }
  Shape shape() const override { return shape_; }
  std::size_t bytes() const override { return bytes_; }
  const void* data() const override { return host_.get(); }
  void* values() override { return host_.get(); }
  void* address() const { return memory_->address(); }
  bool is_cell() const { return is_cell_; }

  void mirror();     // gives it a copy on the host
  void make_cell();  // and makes that the one that counts: bindings copy it before and after each run
  void write(DeviceStream& stream) const { stream.write(address(), host_.get(), bytes_); }
  void read(DeviceStream& stream) const { stream.read(host_.get(), address(), bytes_); }

 private:
  Kind kind_;
  Shape shape_;
  std::size_t bytes_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<unsigned char[]> host_;
  bool is_cell_ = false;
};

// int64 [T], of which the length alone counts: an input of plans whose gather drops image tokens; no caller gives it.
inline constexpr const char* kTokensToKeep = "tokens_to_keep";

using Ties = std::map<std::string, std::string>;  // an output's name -> an input's

class TensorRtSession final : public Session {
 public:
  // `name` is the plan's file, for messages. Throws AR_BACKEND_ERROR where it has tensors of an unknown type.
  TensorRtSession(std::string name, std::unique_ptr<PlanEngine> engine, std::shared_ptr<Device> device);
  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }
  // Runs wait for each other, bindings do not.
  Tensors run(const Feeds& feeds, const std::vector<std::string>& on_host) const override;
  std::unique_ptr<Bound> bind(const Tensors& inputs, const Tensors& outputs) const override;
  std::shared_ptr<Cell> cell(const Array& values) const override;
  TensorPtr zeros(const std::string& input, const Shape& shape) const override;
  // Each of the plan's own capacity. Throws AR_BACKEND_ERROR where `rows` are more.
  std::unique_ptr<Slots> slots(const std::string& input, int64_t sequences, int64_t rows) const override;

  // Captures a run on zeros, of the first profile's smallest sizes; `ties` are outputs that share an input's memory.
  // Where that works, bindings within that profile are captured from now on; where it does not, that is logged, and
  // their work is enqueued anew each time.
  void try_capture(const Ties& ties, const Log& log);

 private:
  using Placed = std::map<std::string, std::shared_ptr<const DeviceTensor>>;

  Kind kind_of(const std::string& port) const;
  Placed placed(const Feeds& feeds, DeviceStream& stream) const;
  int profile(const Placed& inputs) const;
  int set_inputs(PlanContext& context, const Placed& inputs, DeviceStream& stream) const;
  std::shared_ptr<const DeviceTensor> place(const std::string& port, const Feed& feed, DeviceStream& stream) const;
  const DeviceTensor& bound_output(const PlanContext& context, const std::string& port, const Tensor& tensor) const;

  std::string name_;
  std::shared_ptr<Device> device_;
  std::unique_ptr<PlanEngine> engine_;
  std::map<std::string, Kind> kinds_;
  std::vector<std::string> inputs_, outputs_;  // as callers know them
  bool captures_ = false;
  mutable std::mutex running_;  // guards the two below
  std::unique_ptr<DeviceStream> stream_;
  mutable std::unique_ptr<PlanContext> context_;
};

}  // namespace ar
