// The TensorRT backend: plans on NVIDIA GPUs; engines/tensorrt/opening.py.
//
// Images are prepared by ONNX Runtime on the CPU: that graph is no plan. Plans run on a GPU whatever the options say:
// "cpu", their default, means the first one here. `weights` changes nothing: an engine holds its own.
#include "engines/tensorrt/backend.hpp"

#include <cstdlib>

#include "contract/error.hpp"
#include "contract/fingerprint.hpp"
#include "contract/places.hpp"
#include "engines/tensorrt/plans.hpp"
#include "contract/tensors.hpp"
#include "engines/tensorrt/session.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPlugin = "liballrounder_tensorrt_plugin.so";

// Returns the outputs of a decoder that grow in place; other graphs have none.
Ties ties_of(const Session& session) {
  Ties ties;
  for (const std::string& input : session.inputs()) {
    if (const auto output = tensors::cache_output(input)) ties[*output] = input;
  }
  return ties;
}

std::shared_ptr<const Session> open_session(const fs::path& path, const EngineOptions& options, bool) {
  if (path.extension() != kPlan) {
    EngineOptions on_cpu;
    on_cpu.threads = options.threads;
    on_cpu.weights = options.weights;
    on_cpu.ort_library = options.ort_library;
    on_cpu.log = options.log;
    return backend(kOnnxRuntime).open_session(path, on_cpu, false);
  }
  TensorRt& library = tensorrt();
  return open_plan(library, cuda_gpu(options.device_index()), path, options);
}

Machine this_machine(const EngineOptions& options) {
  const std::string name = std::string(kTensorRt) + " " + tensorrt().version();
  const CudaGpu gpu = cuda_gpu(options.device_index());
  return machine(name, options.thread_count(), gpu.name, gpu.driver);
}

std::optional<std::string> missing(const EngineOptions&) {
  try {
    tensorrt();
    cuda_gpu(0);
    return std::nullopt;
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

const Backend kTensorRtBackend{kTensorRt, true, open_session, this_machine, missing};

fs::path tensorrt_plugin_library() {
  const char* const named = std::getenv("ALLROUNDER_NATIVE_LIBRARY_DIR");
  const fs::path folder = named != nullptr && *named != '\0' ? fs::absolute(named) : own_folder();
  std::error_code failed;
  if (fs::is_regular_file(folder / kPlugin, failed)) return folder / kPlugin;
  throw Error(AR_ENGINE_UNAVAILABLE, "this installation has no " + std::string(kPlugin),
              {folder.string(), "", "",
               "build native/ with -DALLROUNDER_CUDA=ON -DALLROUNDER_TENSORRT=ON (native/README.md)"});
}

std::shared_ptr<const Session> open_plan(TensorRt& library, const CudaGpu& gpu, const fs::path& path,
                                         const EngineOptions& options) {
  const std::string name = path.filename().string();
  const PlanTarget target = check_plan_target(name, parse_tensorrt_version(library.version()), gpu.sm);
  if (target.plugin) library.load_plugin(tensorrt_plugin_library());
  const int index = options.device_index();
  // A plan that newer versions run brings a part of its own TensorRT along.
  auto session =
      std::make_shared<TensorRtSession>(name, library.read(path, index, target.newer), library.device(index));
  const Ties ties = ties_of(*session);
  if (!ties.empty()) session->try_capture(ties, options.log);  // the only graph that is bound, and run again
  return session;
}

}  // namespace ar
