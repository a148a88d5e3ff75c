// A library that says it is ONNX Runtime 1.16.3; the base interface has had this shape since the first release.
#include <cstdint>

namespace {

struct Base {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

const void* no_api(uint32_t) { return nullptr; }
const char* old_version() { return "1.16.3"; }
const Base base = {no_api, old_version};

}  // namespace

extern "C" const Base* OrtGetApiBase() { return &base; }
