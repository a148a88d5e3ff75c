// TensorRT's library: found and opened at run time, never linked.
//
// What it is: the one open library of this process, and what it makes of plans; tensorrt_library.cpp adapts TensorRT
// and CUDA, absent.cpp is there where they were not built.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engines/tensorrt/seam.hpp"

namespace ar {

class TensorRt : public Interface {
 public:
  virtual std::string version() const = 0;  // "10.16.1.11"
  virtual std::shared_ptr<Device> device(int index) = 0;
  // Makes the ops of a plugin library known to plans that are read from now on; may be called again.
  virtual void load_plugin(const std::filesystem::path& library) = 0;
  // Reads a plan onto a device. `host_code`: it may bring code for the CPU along, a part of its own TensorRT.
  virtual std::unique_ptr<PlanEngine> read(const std::filesystem::path& plan, int device, bool host_code) = 0;
};

// Returns TensorRT; opens it first where it is not: the library that ALLROUNDER_TENSORRT_LIBRARY names, else the
// system's libnvinfer.so of the major version that this runtime was built for. Throws AR_ENGINE_UNAVAILABLE: not found,
// not TensorRT, of another major version or too old; or this build has none.
TensorRt& tensorrt();

}  // namespace ar
