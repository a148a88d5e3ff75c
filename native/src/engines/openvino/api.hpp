// What this runtime calls of OpenVINO's C API, declared here, so that no header of OpenVINO is needed.
//
// What it knows: the records, numbers and functions of openvino/c/*.h, 2026.4; where these headers are there,
// tests/engines/openvino_api_test.cpp holds the two against each other. What it does not know: where a library is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ar::openvino {

struct Core;
struct Model;
struct CompiledModel;
struct InferRequest;
struct Port;
struct OvTensor;

using Status = int32_t;  // 0: it was done
using ElementType = uint32_t;

inline constexpr ElementType kBoolean = 1, kBf16 = 2, kF16 = 3, kF32 = 4, kI64 = 10, kU8 = 16;

struct Version {
  const char* build;  // "2026.4.1-22982-e213a147257-releases/2026/4"
  const char* description;
};

struct Extents {
  int64_t rank;
  int64_t* values;
};

struct Span {  // both the same, where the extent is known
  int64_t least, most;
};

struct Spans {
  Span rank;
  Span* values;
};

// F(name, result, arguments)
#define ALLROUNDER_OPENVINO_FUNCTIONS(F)                                                                      \
  F(ov_get_openvino_version, Status, (Version*))                                                              \
  F(ov_version_free, void, (Version*))                                                                        \
  F(ov_get_last_err_msg, const char*, ())                                                                     \
  F(ov_free, void, (const char*))                                                                             \
  F(ov_core_create, Status, (Core**))                                                                         \
  F(ov_core_read_model, Status, (const Core*, const char*, const char*, Model**))                             \
  F(ov_core_compile_model, Status,                                                                            \
    (const Core*, const Model*, const char*, std::size_t, CompiledModel**, ...))                              \
  F(ov_model_inputs_size, Status, (const Model*, std::size_t*))                                               \
  F(ov_model_outputs_size, Status, (const Model*, std::size_t*))                                              \
  F(ov_model_const_input_by_index, Status, (const Model*, std::size_t, Port**))                               \
  F(ov_model_const_output_by_index, Status, (const Model*, std::size_t, Port**))                              \
  F(ov_model_free, void, (Model*))                                                                            \
  F(ov_port_get_any_name, Status, (const Port*, char**))                                                      \
  F(ov_port_get_element_type, Status, (const Port*, ElementType*))                                            \
  F(ov_port_get_partial_shape, Status, (const Port*, Spans*))                                                 \
  F(ov_output_const_port_free, void, (Port*))                                                                 \
  F(ov_partial_shape_free, void, (Spans*))                                                                    \
  F(ov_compiled_model_create_infer_request, Status, (const CompiledModel*, InferRequest**))                   \
  F(ov_compiled_model_free, void, (CompiledModel*))                                                           \
  F(ov_infer_request_set_input_tensor_by_index, Status, (InferRequest*, std::size_t, const OvTensor*))        \
  F(ov_infer_request_get_output_tensor_by_index, Status, (const InferRequest*, std::size_t, OvTensor**))      \
  F(ov_infer_request_infer, Status, (InferRequest*))                                                          \
  F(ov_infer_request_free, void, (InferRequest*))                                                             \
  F(ov_tensor_create_from_host_ptr, Status, (ElementType, Extents, void*, OvTensor**))                        \
  F(ov_tensor_get_element_type, Status, (const OvTensor*, ElementType*))                                      \
  F(ov_tensor_get_shape, Status, (const OvTensor*, Extents*))                                                 \
  F(ov_tensor_data, Status, (const OvTensor*, void**))                                                        \
  F(ov_tensor_free, void, (OvTensor*))                                                                        \
  F(ov_shape_free, Status, (Extents*))

struct Api {
#define ALLROUNDER_OPENVINO_MEMBER(name, result, arguments) result(*name) arguments = nullptr;
  ALLROUNDER_OPENVINO_FUNCTIONS(ALLROUNDER_OPENVINO_MEMBER)
#undef ALLROUNDER_OPENVINO_MEMBER
};

}  // namespace ar::openvino
