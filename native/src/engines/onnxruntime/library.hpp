// ONNX Runtime's library: found and opened at run time, never linked.
//
// What it is: the search, the one open library of this process, and its one environment.
//
// A program that is linked to ONNX Runtime is tied to its version; one that opens it runs with any. The library is
// never closed: it leaves threads and static objects behind that would not survive.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

struct OrtApi;
struct OrtEnv;

namespace ar {

struct OrtLibrary {
  const OrtApi* api;
  OrtEnv* env;
  std::string version;  // "1.31.1"
  std::filesystem::path path;
};

// Returns the open library; opens it first where none is. `wanted` is a path, empty for the search order of c_api.h.
// Throws AR_ENGINE_UNAVAILABLE (not found, not ONNX Runtime, too old) or AR_INPUT_INVALID (`wanted` is another
// library than the one that is open).
const OrtLibrary& ort_library(const std::string& wanted);

// Returns the library that `ort_library` opened; only after that.
const OrtLibrary& open_ort_library();

// Returns the library with the native gather op: the one that ALLROUNDER_ORT_OPS names, else the one in our own
// folder, else nothing. Throws AR_ENGINE_UNAVAILABLE where the variable names no file.
std::optional<std::filesystem::path> ort_ops_library();

}  // namespace ar
