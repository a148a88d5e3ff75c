// The OpenVINO backend: settings, compiling, and the machine's fingerprint; engines/openvino/session.py.
//
// It reads flat graphs and runs them on OpenVINO's CPU plugin. `EngineOptions.weights` changes nothing here: OpenVINO
// maps the weights' file and packs for each engine what it wants.
#include <unistd.h>

#include "contract/error.hpp"
#include "contract/fingerprint.hpp"
#include "engines/openvino/session.hpp"

namespace ar {
namespace {

constexpr const char* kDevice = "CPU";

void require_cpu(const EngineOptions& options) {
  if (options.on_cpu()) return;
  throw Error(AR_ENGINE_UNAVAILABLE, "OpenVINO engines run on the CPU", {"device", quoted(options.device), "cpu", ""});
}

void require_threads() {
  static const pid_t process = getpid();  // where OpenVINO started its threads, which is where this is asked first
  if (getpid() == process) return;
  throw Error(AR_ENGINE_UNAVAILABLE,
              "OpenVINO's threads did not come along when this process was forked",  // it would end the process
              {"",
               "its first engine was opened in process " + std::to_string(process) + ", this is process " +
                   std::to_string(getpid()),
               "", "start this process before an engine is opened, or start it by spawn"});
}

std::shared_ptr<const Session> open_session(const std::filesystem::path& path, const EngineOptions& options, bool) {
  require_cpu(options);
  require_threads();
  const OpenVinoLibrary& library = openvino_library(options.openvino_library);
  const openvino::Api& api = library.api;
  const auto check = [&](openvino::Status status) {
    // It reads no weights behind links, as bundles in the hub's cache have them.
    const bool link = std::filesystem::is_symlink(path);
    openvino_check(status, "OpenVINO refuses a graph", path.string(),
                   link ? "copy the bundle with its files in place of links: cp -rL BUNDLE DIRECTORY" : "");
  };
  openvino::Model* raw_model = nullptr;
  check(api.ov_core_read_model(library.core, path.c_str(), nullptr, &raw_model));
  const OpenVinoOwned<openvino::Model> model(raw_model);
  const std::string name = path.filename().string(), threads = std::to_string(options.thread_count());
  // Compiling folds ops away, and the port that is left has the names of both: here each has the graph's alone.
  std::vector<OpenVinoPort> inputs = openvino_inputs(*model, name), outputs = openvino_outputs(*model, name);
  openvino::CompiledModel* raw = nullptr;
  check(api.ov_core_compile_model(
      library.core, model.get(), kDevice, 10, &raw,  // words that follow
      "PERFORMANCE_HINT", "LATENCY", "NUM_STREAMS", "1", "INFERENCE_NUM_THREADS", threads.c_str(),
      "INFERENCE_PRECISION_HINT", "f32",  // on some processors the default is bfloat16
      "ENABLE_CPU_PINNING", "NO"));       // several engines live in one process
  return std::make_shared<OpenVinoSession>(OpenVinoOwned<openvino::CompiledModel>(raw), name, std::move(inputs),
                                           outputs);
}

Machine this_machine(const EngineOptions& options) {
  require_cpu(options);
  const std::string version = openvino_library(options.openvino_library).version;
  return machine(std::string(kOpenVino) + " " + version, options.thread_count());
}

std::optional<std::string> why_not_here(const EngineOptions& options) {
  try {
    openvino_library(options.openvino_library);
  } catch (const Error& error) {
    return error.what();
  }
  return std::nullopt;
}

}  // namespace

const Backend kOpenVinoBackend{kOpenVino, false, open_session, this_machine, why_not_here};

}  // namespace ar
