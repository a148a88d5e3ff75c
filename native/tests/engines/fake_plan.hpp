// A GPU in the host's memory, and plans that compute what a test says.
//
// The GPU is lazy: what is put into a stream is done when the stream is waited for, so that a copy that comes too late,
// or memory that goes too early, shows.
#pragma once

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "contract/error.hpp"
#include "engines/tensorrt/seam.hpp"

namespace ar::test {

struct Gpu {  // what happened on it
  std::atomic<int> blocks{0}, captures{0}, launches{0}, enqueued{0};
  bool refuses_capture = false;
};

class HostMemory final : public DeviceMemory {
 public:
  HostMemory(std::shared_ptr<Gpu> gpu, std::size_t bytes) : gpu_(std::move(gpu)), memory_(bytes + 1, 0xee) {
    ++gpu_->blocks;
  }
  ~HostMemory() override { --gpu_->blocks; }
  void* address() const override { return const_cast<unsigned char*>(memory_.data()); }

 private:
  std::shared_ptr<Gpu> gpu_;
  std::vector<unsigned char> memory_;
};

using Work = std::vector<std::function<void()>>;

class HostStream final : public DeviceStream {
 public:
  explicit HostStream(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}
  void put(std::function<void()> work) { (capturing_ ? captured_ : queue_).push_back(std::move(work)); }
  void write(void* device, const void* host, std::size_t bytes) override { copy(device, host, bytes); }
  void read(void* host, const void* device, std::size_t bytes) override { copy(host, device, bytes); }
  void wait() override {
    refuse_in_capture();
    for (const auto& work : std::exchange(queue_, {})) work();
  }
  std::unique_ptr<CapturedWork> capture(const std::function<void()>& enqueue) override {
    if (gpu_->refuses_capture) throw Error(AR_BACKEND_ERROR, "CUDA failed", {"capture", "not permitted", "", ""});
    capturing_ = true;
    enqueue();
    capturing_ = false;
    ++gpu_->captures;
    return std::make_unique<HostWork>(*this, std::exchange(captured_, {}));
  }

 private:
  class HostWork final : public CapturedWork {
   public:
    HostWork(HostStream& stream, Work work) : stream_(stream), work_(std::move(work)) {}
    void launch() override {
      ++stream_.gpu_->launches;
      for (const auto& work : work_) stream_.put(work);
    }

   private:
    HostStream& stream_;
    Work work_;
  };

  void refuse_in_capture() const {
    if (capturing_) throw Error(AR_BACKEND_ERROR, "CUDA failed", {"capture", "this cannot be captured", "", ""});
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    refuse_in_capture();
    put([=] { std::memcpy(to, from, bytes); });
  }

  std::shared_ptr<Gpu> gpu_;
  Work queue_, captured_;
  bool capturing_ = false;
};

class HostDevice final : public Device {
 public:
  explicit HostDevice(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}
  void use() override {}
  std::unique_ptr<DeviceMemory> memory(std::size_t bytes) override { return std::make_unique<HostMemory>(gpu_, bytes); }
  std::unique_ptr<DeviceStream> stream() override { return std::make_unique<HostStream>(gpu_); }

 private:
  std::shared_ptr<Gpu> gpu_;
};

struct PlanTensor {
  Shape shape;
  void* address = nullptr;
  template <class T>
  T* as() const {
    return static_cast<T*>(address);
  }
};
using PlanTensors = std::map<std::string, PlanTensor>;

// A plan: its tensors, the profiles of its inputs, the shapes of its outputs, what it computes.
struct Plan {
  std::vector<PlanPort> ports;
  std::vector<std::map<std::string, PlanRange>> profiles;
  std::function<Shape(const std::string& output, const PlanTensors& inputs)> shape;
  std::function<void(const PlanTensors& tensors)> compute;
};

class FakePlan final : public PlanEngine {
 public:
  FakePlan(Plan plan, std::shared_ptr<Gpu> gpu)
      : plan_(std::make_shared<Plan>(std::move(plan))), gpu_(std::move(gpu)) {}
  std::vector<PlanPort> ports() const override { return plan_->ports; }
  int profiles() const override { return static_cast<int>(plan_->profiles.size()); }
  PlanRange range(const std::string& input, int profile) const override {
    return plan_->profiles.at(static_cast<std::size_t>(profile)).at(input);
  }
  std::unique_ptr<PlanContext> context() override { return std::make_unique<FakeContext>(plan_, gpu_); }

 private:
  class FakeContext final : public PlanContext {
   public:
    FakeContext(std::shared_ptr<Plan> plan, std::shared_ptr<Gpu> gpu) : plan_(std::move(plan)), gpu_(std::move(gpu)) {}
    void set_profile(int profile, DeviceStream&) override {
      profile_ = profile;
      tensors_.clear();
    }
    void set_shape(const std::string& input, const Shape& shape) override {
      const PlanRange& range = plan_->profiles.at(static_cast<std::size_t>(profile_)).at(input);
      for (std::size_t index = 0; index < shape.size(); ++index) {
        if (shape.at(index) < range.low.at(index) || shape.at(index) > range.high.at(index)) {
          throw Error(AR_BACKEND_ERROR, "TensorRT failed", {input, "outside the profile", "", ""});
        }
      }
      tensors_[input].shape = shape;
    }
    void set_address(const std::string& tensor, void* address) override { tensors_[tensor].address = address; }
    Shape shape(const std::string& output) const override { return plan_->shape(output, tensors_); }
    void enqueue(DeviceStream& stream) override {
      ++gpu_->enqueued;
      for (const PlanPort& port : plan_->ports) {
        PlanTensor& tensor = tensors_.at(port.name);
        if (!port.is_input) tensor.shape = shape(port.name);
      }
      static_cast<HostStream&>(stream).put([plan = plan_, tensors = tensors_] { plan->compute(tensors); });
    }

   private:
    std::shared_ptr<Plan> plan_;
    std::shared_ptr<Gpu> gpu_;
    int profile_ = -1;
    PlanTensors tensors_;
  };

  std::shared_ptr<Plan> plan_;
  std::shared_ptr<Gpu> gpu_;
};

}  // namespace ar::test
