// Replaces TensorRT where this library was built without it.
#include "contract/error.hpp"
#include "engines/tensorrt/library.hpp"

namespace ar {

TensorRt& tensorrt() {
  throw Error(AR_ENGINE_UNAVAILABLE, "this build of allrounder has no TensorRT backend",
              {"", "", "", "build native/ with -DALLROUNDER_CUDA=ON -DALLROUNDER_TENSORRT=ON (native/README.md)"});
}

}  // namespace ar
