// Replaces the ONNX Runtime backend where its headers were not there when this library was built.
#include "contract/error.hpp"
#include "engines/backend.hpp"

namespace ar {
namespace {

Error absent() {
  return {AR_ENGINE_UNAVAILABLE,
          "this build of allrounder has no ONNX Runtime backend",
          {"", "", "", "build native/ with -DORT_ROOT=DIR, the folder of ONNX Runtime's headers"}};
}

std::shared_ptr<const Session> open_session(const std::filesystem::path&, const EngineOptions&, bool) {
  throw absent();
}

Machine this_machine(const EngineOptions&) { throw absent(); }

std::optional<std::string> nothing_here(const EngineOptions&) { return absent().what(); }

}  // namespace

const Backend kOnnxRuntimeBackend{kOnnxRuntime, false, open_session, this_machine, nothing_here};

}  // namespace ar
