// RegisterCustomOps: the one symbol that this library exports.
//
// What it is: the op's records for each ONNX Runtime that asks, made once and kept, because sessions point to them.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gather/gather.hpp"
#include "ort_ops/op.hpp"
#include "ort_ops/ort.hpp"

namespace ar::ort_ops {
namespace {

constexpr uint32_t kOldest = 17;  // the first with shape inference for custom ops

constexpr Backend kCpu{nullptr, [](const OrtApi&, const OrtKernelContext&, const gather::Shape& shape,
                                    const gather::Choice& choice, std::size_t element_bytes,
                                    const gather::Tensors& tensors) {
                         gather::gather_cpu(shape, choice, element_bytes, tensors);
                       }};

// The N of a version 1.N.P. GetApi() of an older runtime than our headers knows its own version only.
uint32_t api_version(const OrtApiBase& base) {
  const char* dot = std::strchr(base.GetVersionString(), '.');
  const unsigned long minor = dot == nullptr ? 0 : std::strtoul(dot + 1, nullptr, 10);
  return static_cast<uint32_t>(std::min<unsigned long>(minor, ORT_API_VERSION));
}

// The domain with all records of the op.
class Domain {
 public:
  Domain(const OrtApi& api, uint32_t version) : domain_(nullptr, api.ReleaseCustomOpDomain) {
    OrtCustomOpDomain* domain = nullptr;
    check(api.CreateCustomOpDomain(gather::kDomain, &domain));
    domain_.reset(domain);
    for (const Backend* backend : {&kCpu, cuda_backend()}) {
      if (backend == nullptr) continue;
      for (const ONNXTensorElementDataType type : kTypes) {
        ops_.push_back(std::make_unique<Op>(api, version, type, *backend));
        check(api.CustomOpDomain_Add(domain, ops_.back().get()));
      }
    }
  }

  OrtCustomOpDomain* get() const { return domain_.get(); }

 private:
  std::vector<std::unique_ptr<Op>> ops_;
  std::unique_ptr<OrtCustomOpDomain, void (*)(OrtCustomOpDomain*)> domain_;
};

// One for each copy of ONNX Runtime in the process: tables of functions differ between them.
OrtCustomOpDomain* domain_of(const OrtApi& api, uint32_t version) {
  static std::mutex mutex;
  static std::map<const OrtApi*, Domain> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  return domains.try_emplace(&api, api, version).first->second.get();
}

}  // namespace
}  // namespace ar::ort_ops

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace ar::ort_ops;
  const uint32_t version = api_version(*base);
  if (version < kOldest) {
    const std::string message =
        std::string("this gather op needs a newer ONNX Runtime; got: ") + base->GetVersionString() + "; wanted: 1." +
        std::to_string(kOldest) + " or later; remedy: do not register the library, the graphs run without it";
    return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str());
  }
  const OrtApi& api = *base->GetApi(version);
  return guard(api, [&] { check(api.AddCustomOpDomain(options, domain_of(api, version))); });
}
