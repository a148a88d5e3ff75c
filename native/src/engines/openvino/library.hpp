// OpenVINO's library: found and opened at run time, never linked.
//
// What it is: the search, the one open library of this process, its one core, and its objects, owned.
//
// The library is never closed: it leaves threads and static objects behind that would not survive.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engines/openvino/api.hpp"

namespace ar {

struct OpenVinoLibrary {
  openvino::Api api;
  openvino::Core* core;
  std::string version;  // "2026.4.1"
  std::filesystem::path path;
};

// Returns the open library; opens it first where none is. `wanted` is a path, empty for the search order of c_api.h.
// Throws AR_ENGINE_UNAVAILABLE (not found, not OpenVINO, too old) or AR_INPUT_INVALID (`wanted` is another library than
// the one that is open).
const OpenVinoLibrary& openvino_library(const std::string& wanted);

// Returns the functions of the library that `openvino_library` opened; only after that.
const openvino::Api& openvino_api();

// Throws AR_BACKEND_ERROR with the library's own message where `status` is a failure.
void openvino_check(openvino::Status status, const char* what, const std::string& where,
                    const std::string& remedy = "");

struct OpenVinoRelease {
  void operator()(openvino::Model* object) const { openvino_api().ov_model_free(object); }
  void operator()(openvino::CompiledModel* object) const { openvino_api().ov_compiled_model_free(object); }
  void operator()(openvino::InferRequest* object) const { openvino_api().ov_infer_request_free(object); }
  void operator()(openvino::Port* object) const { openvino_api().ov_output_const_port_free(object); }
  void operator()(openvino::OvTensor* object) const { openvino_api().ov_tensor_free(object); }
};
template <class T>
using OpenVinoOwned = std::unique_ptr<T, OpenVinoRelease>;

}  // namespace ar
