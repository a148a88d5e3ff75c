// Stands in for the ONNX Runtime backend where its headers were not there when this library was built.
#include "contract/error.hpp"
#include "runtime/backend.hpp"

namespace ar {
namespace {

[[noreturn]] void absent() {
  throw Error(AR_ENGINE_UNAVAILABLE, "this build of allrounder has no ONNX Runtime backend",
              {"", "", "", "build native/ with -DORT_ROOT=DIR, the folder of ONNX Runtime's headers"});
}

}  // namespace

std::shared_ptr<const Session> open_session(const std::filesystem::path&, const EngineOptions&, bool) { absent(); }

Machine backend_machine(const EngineOptions&) { absent(); }

}  // namespace ar
