// What the runtime needs of a backend, and which backends there are; as engines/sessions.py.
//
// What it is: the seam between engines and a backend's library; tests put their own sessions behind it. And a table of
// backends by name, which is in backend.cpp.
// What it knows: names, shapes, memory. What it does not know: any backend's library. One that was not built is in the
// table all the same: its absent.cpp says why it runs nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "contract/manifest.hpp"
#include "engines/options.hpp"

namespace ar {

// Backends' names in manifests.
inline constexpr const char* kOnnxRuntime = "onnxruntime";
inline constexpr const char* kOpenVino = "openvino";
inline constexpr const char* kTensorRt = "tensorrt";

enum class Kind { kUint8, kBool, kInt64, kFloat32, kFloat16, kBfloat16, kOther };

// Of one value; 0 where that is not known.
std::size_t kind_bytes(Kind kind);
const char* kind_name(Kind kind);  // "float32"

using Shape = std::vector<int64_t>;

// Values in the caller's memory, dense, which must live as long as what is made of them.
struct Array {
  Kind kind;
  std::vector<int64_t> shape;
  const void* data;
};

// What is used by reference to its base alone.
class Interface {
 public:
  Interface() = default;
  Interface(const Interface&) = delete;
  Interface& operator=(const Interface&) = delete;
  virtual ~Interface() = default;
};

// A tensor where the backend wants it.
class Tensor : public Interface {
 public:
  virtual Kind kind() const = 0;
  virtual std::vector<int64_t> shape() const = 0;
  virtual std::size_t bytes() const = 0;
  virtual const void* data() const = 0;  // only of a tensor in the host's memory
};

// A small tensor in the host's memory whose values are replaced in place, so that it need not be bound again.
class Cell : public Tensor {
 public:
  virtual void* values() = 0;
};

using TensorPtr = std::shared_ptr<const Tensor>;
using Tensors = std::map<std::string, TensorPtr>;

// A session with its inputs, and outputs that are to lie somewhere, tied to memory.
class Bound : public Interface {
 public:
  // Computes the outputs from what the inputs hold now; returns those that are tied to nothing, in the host's memory.
  // Throws AR_BACKEND_ERROR: the library failed, or an output has another shape than what it is tied to.
  virtual Tensors run() = 0;
};

// Caches of several sequences in one block, [B, G, C, D], zeroed when made.
class Slots : public Interface {
 public:
  virtual TensorPtr first(int64_t sequences) const = 0;  // [sequences, G, C, D] of the block
  virtual TensorPtr row(int64_t slot) const = 0;         // [1, G, C, D] of it
  virtual void move(int64_t from, int64_t to) = 0;       // copies one sequence over another
};
using Feed = std::variant<TensorPtr, Array>;
using Feeds = std::map<std::string, Feed>;

// One loaded graph; any number of threads may run it at once.
class Session : public Interface {
 public:
  virtual const std::vector<std::string>& inputs() const = 0;
  virtual const std::vector<std::string>& outputs() const = 0;
  // Returns all outputs, in memory of their own: `on_host` names those that are read here, the others stay on the
  // device. Throws AR_BACKEND_ERROR.
  virtual Tensors run(const Feeds& feeds, const std::vector<std::string>& on_host) const = 0;
  // Ties inputs and outputs to memory, and holds on to it; an output may share that of an input.
  virtual std::unique_ptr<Bound> bind(const Tensors& inputs, const Tensors& outputs) const = 0;
  // Returns a cell that holds a copy of the values.
  virtual std::shared_ptr<Cell> cell(const Array& values) const = 0;
  // Returns zeros for an input; -1 takes the extent that the graph states.
  virtual TensorPtr zeros(const std::string& input, const Shape& shape) const = 0;
  // Returns caches for a cache input. Throws AR_ENGINE_UNAVAILABLE where this backend holds one sequence alone.
  virtual std::unique_ptr<Slots> slots(const std::string& input, int64_t sequences, int64_t rows) const = 0;
};

// A backend, as functions.
struct Backend {
  const char* name;
  bool gpu_alone;  // its engines run on a GPU, whatever device is named
  // Loads a graph; with the native gather op, where that is asked for and there is one. Throws AR_ENGINE_UNAVAILABLE
  // (the library or the device is not there) or AR_BACKEND_ERROR (the library refuses the graph).
  std::shared_ptr<const Session> (*open_session)(const std::filesystem::path& path, const EngineOptions& options,
                                                 bool native_op);
  // Returns this machine as far as the latency of engines opened with `options` depends on it. Throws
  // AR_ENGINE_UNAVAILABLE.
  Machine (*machine)(const EngineOptions& options);
  // Returns why this process can run none of its engines opened with `options`, or nothing.
  std::optional<std::string> (*why_not)(const EngineOptions& options);
};

// Each of these is in its backend's own file.
extern const Backend kOnnxRuntimeBackend;
extern const Backend kOpenVinoBackend;
extern const Backend kTensorRtBackend;

// Returns the backend of that name. Throws AR_ENGINE_UNAVAILABLE where this runtime has none.
const Backend& backend(const std::string& name);

// Returns why this process cannot run engines of that backend, opened with `options`, or nothing where it can.
std::optional<std::string> why_not(const std::string& name, const EngineOptions& options = {});

// Checks that a backend computes in the precision of an entry where `options` open it. Throws AR_ENGINE_UNAVAILABLE,
// before its library says so of some node.
void check_precision(const Entry& entry, const EngineOptions& options);

// Returns why this process cannot run engines like `entry`, opened with `options`, or nothing where it can.
std::optional<std::string> why_not(const Entry& entry, const EngineOptions& options);

// Whether engines of that backend, opened with `options`, run on the CPU.
bool runs_on_cpu(const std::string& name, const EngineOptions& options);

}  // namespace ar
