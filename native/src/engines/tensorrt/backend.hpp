// The TensorRT backend's steps, for its tests: the backend itself is kTensorRtBackend in backend.hpp.
#pragma once

#include <filesystem>
#include <memory>

#include "engines/gpus.hpp"
#include "engines/tensorrt/library.hpp"

namespace ar {

// Opens a plan for a GPU. Throws AR_ENGINE_UNAVAILABLE (a plan of another TensorRT or GPU architecture; the plugin that
// it needs is not there) or AR_BACKEND_ERROR.
std::shared_ptr<const Session> open_plan(TensorRt& library, const CudaGpu& gpu, const std::filesystem::path& path,
                                         const EngineOptions& options);

// Returns the library with the gather op for TensorRT: in the folder that ALLROUNDER_NATIVE_LIBRARY_DIR names, else in
// our own. Throws AR_ENGINE_UNAVAILABLE where there is none.
std::filesystem::path tensorrt_plugin_library();

}  // namespace ar
