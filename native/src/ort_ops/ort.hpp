// The little of ONNX Runtime's C API that the op needs, with its failures as exceptions inside this library.
//
// What it is: a failure that carries a status, and the one place where exceptions become statuses again.
//
// The C API and not its C++ wrapper: the wrapper keeps one OrtApi for the whole library, and two copies of ONNX
// Runtime may share this library in one process; nor can it infer shapes with symbolic dimensions.
#pragma once

#include <onnxruntime_c_api.h>

#include <exception>
#include <string>

namespace ar::ort_ops {

// The failure of a call, or one of ours. Owns the status until guard() hands it on.
struct Failure {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status != nullptr) throw Failure{status};
}

// Throws `message` unless it is empty.
inline void check(const OrtApi& api, const std::string& message, OrtErrorCode code = ORT_INVALID_ARGUMENT) {
  if (!message.empty()) throw Failure{api.CreateStatus(code, message.c_str())};
}

// Runs `body` and returns what went wrong as a status, or null: nothing is thrown into ONNX Runtime.
template <typename Body>
OrtStatus* guard(const OrtApi& api, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_RUNTIME_EXCEPTION, error.what());
  }
}

}  // namespace ar::ort_ops
