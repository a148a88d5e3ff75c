// A build without CUDA has no op on that provider: its graphs run there by the function's standard ops.
#include "ort_ops/backend.hpp"

namespace ar::ort_ops {

const Backend* cuda_backend() { return nullptr; }

}  // namespace ar::ort_ops
