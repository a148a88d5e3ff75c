// A plan and a GPU as the TensorRT session uses them.
//
// What it is: two narrow interfaces; tensorrt_library.cpp puts TensorRT and CUDA behind them, tests the host's memory.
// What it knows: names, shapes, addresses, queues of work. What it does not know: any header of NVIDIA.
//
// Every call throws AR_BACKEND_ERROR where the library behind it fails.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engines/backend.hpp"

namespace ar {

// Bytes on the GPU; freed with this object.
class DeviceMemory : public Interface {
 public:
  virtual void* address() const = 0;
};

// Work that was captured, and is launched as one; its memory and contexts are the caller's to keep.
class CapturedWork : public Interface {
 public:
  virtual void launch() = 0;  // into the stream that captured it
};

// A queue of work on the GPU.
class DeviceStream : public Interface {
 public:
  // Host memory that crosses must stay until `wait`.
  virtual void write(void* device, const void* host, std::size_t bytes) = 0;
  virtual void read(void* host, const void* device, std::size_t bytes) = 0;
  virtual void wait() = 0;  // until everything in the queue is done
  // Returns what `enqueue` puts into this stream, which is not done by that.
  virtual std::unique_ptr<CapturedWork> capture(const std::function<void()>& enqueue) = 0;
};

class Device : public Interface {
 public:
  virtual void use() = 0;  // makes this GPU the one that the thread's further calls mean
  virtual std::unique_ptr<DeviceMemory> memory(std::size_t bytes) = 0;
  virtual std::unique_ptr<DeviceStream> stream() = 0;
};

// An execution context of a plan: a profile, shapes and addresses, which stay until they are set anew. It holds on to
// what it was made of.
class PlanContext : public Interface {
 public:
  virtual void set_profile(int profile, DeviceStream& stream) = 0;  // before the shapes
  virtual void set_shape(const std::string& input, const Shape& shape) = 0;
  virtual void set_address(const std::string& tensor, void* address) = 0;
  virtual Shape shape(const std::string& output) const = 0;  // for the inputs' shapes as they were set
  virtual void enqueue(DeviceStream& stream) = 0;
};

struct PlanPort {  // an input or output
  std::string name;
  bool is_input;
  Kind kind;
};

struct PlanRange {  // of an input's shapes in a profile
  Shape low, high;
};

class PlanEngine : public Interface {
 public:
  virtual std::vector<PlanPort> ports() const = 0;
  virtual int profiles() const = 0;
  virtual PlanRange range(const std::string& input, int profile) const = 0;
  virtual std::unique_ptr<PlanContext> context() = 0;  // from any thread
};

}  // namespace ar
