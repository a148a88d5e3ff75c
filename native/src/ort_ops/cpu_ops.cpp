#include "ort_ops/backend.hpp"

namespace ar::ort_ops {

const Backend& cpu_backend() {
  static constexpr Backend backend{
      nullptr, [](const OrtApi&, const OrtKernelContext&, const gather::Shape& shape, std::size_t element_bytes,
                  const gather::Tensors& tensors) { gather::gather_cpu(shape, element_bytes, tensors); }};
  return backend;
}

}  // namespace ar::ort_ops
