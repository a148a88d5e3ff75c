// What the op library tells an ONNX Runtime, asked by a made-up one: versions, domains, the declaration of each record.
// Real runtimes: tests/native/test_gather_ort.py.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <onnxruntime_c_api.h>

#include <string>
#include <vector>

// As ONNX Runtime keeps them, which its header leaves open.
struct OrtCustomOpDomain {
  std::string name;
  std::vector<const OrtCustomOp*> ops;
};
struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};
struct OrtSessionOptions {
  std::vector<OrtCustomOpDomain*> domains;
  bool refuses = false;
};

namespace {

using Register = OrtStatus* (*)(OrtSessionOptions*, const OrtApiBase*);

Register register_custom_ops() {
  static void* library = dlopen(ORT_OPS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  EXPECT_NE(library, nullptr) << dlerror();
  return reinterpret_cast<Register>(dlsym(library, "RegisterCustomOps"));
}

// Copies of a runtime: a table of functions each. Static, because C callbacks carry nothing.
struct Runtime {
  std::string version;
  OrtApi api{};
  uint32_t asked = 0;  // the last version that GetApi() was called with
};
Runtime runtimes[4];

template <int index>
const OrtApiBase* base(const char* version) {
  Runtime& runtime = runtimes[index];
  runtime.version = version;
  runtime.asked = 0;
  runtime.api.CreateStatus = [](OrtErrorCode code, const char* message) noexcept {
    return new OrtStatus{code, message};
  };
  runtime.api.CreateCustomOpDomain = [](const char* name, OrtCustomOpDomain** out) noexcept -> OrtStatus* {
    *out = new OrtCustomOpDomain{name, {}};
    return nullptr;
  };
  runtime.api.ReleaseCustomOpDomain = [](OrtCustomOpDomain* domain) noexcept { delete domain; };
  runtime.api.CustomOpDomain_Add = [](OrtCustomOpDomain* domain, const OrtCustomOp* op) noexcept -> OrtStatus* {
    domain->ops.push_back(op);
    return nullptr;
  };
  runtime.api.AddCustomOpDomain = [](OrtSessionOptions* options, OrtCustomOpDomain* domain) noexcept -> OrtStatus* {
    if (options->refuses) return new OrtStatus{ORT_FAIL, "these options take no domain"};
    options->domains.push_back(domain);
    return nullptr;
  };
  static const OrtApiBase made{[](uint32_t asked) noexcept -> const OrtApi* {
                                 runtimes[index].asked = asked;
                                 return &runtimes[index].api;
                               },
                               []() noexcept { return runtimes[index].version.c_str(); }};
  return &made;
}

TEST(Register, AsksForTheVersionThatBothSidesKnow) {
  OrtSessionOptions options;
  EXPECT_EQ(register_custom_ops()(&options, base<0>("1.99.0")), nullptr);
  EXPECT_EQ(runtimes[0].asked, ORT_API_VERSION);
  EXPECT_EQ(register_custom_ops()(&options, base<1>("1.20.1")), nullptr);
  EXPECT_EQ(runtimes[1].asked, 20u);
  ASSERT_EQ(options.domains.size(), 2u);
  EXPECT_EQ(options.domains[1]->ops[0]->version, 20u);
}

TEST(Register, RefusesARuntimeThatIsTooOldAndSaysSo) {
  OrtSessionOptions options;
  OrtStatus* status = register_custom_ops()(&options, base<2>("1.16.3"));
  ASSERT_NE(status, nullptr);
  EXPECT_EQ(status->code, ORT_NOT_IMPLEMENTED);
  EXPECT_NE(status->message.find("got: 1.16.3; wanted: 1.17 or later; remedy: "), std::string::npos) << status->message;
  EXPECT_TRUE(options.domains.empty());
  delete status;
}

TEST(Register, MakesOneDomainForEachRuntime) {
  OrtSessionOptions options;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(register_custom_ops()(&options, base<0>("1.99.0")), nullptr);
  EXPECT_EQ(register_custom_ops()(&options, base<3>("1.99.0")), nullptr);
  ASSERT_EQ(options.domains.size(), 4u);
  EXPECT_EQ(options.domains[0], options.domains[2]);
  EXPECT_NE(options.domains[0], options.domains[3]);
  EXPECT_EQ(options.domains[0]->name, "allrounder");
}

TEST(Register, HandsARefusalOn) {
  OrtSessionOptions options;
  options.refuses = true;
  OrtStatus* status = register_custom_ops()(&options, base<0>("1.99.0"));
  ASSERT_NE(status, nullptr);
  EXPECT_EQ(status->message, "these options take no domain");
  delete status;
}

TEST(Declaration, IsThatOfTheContractForEveryTypeOnTheCpu) {
  OrtSessionOptions options;
  ASSERT_EQ(register_custom_ops()(&options, base<0>("1.99.0")), nullptr);
  std::vector<ONNXTensorElementDataType> types;
  for (const OrtCustomOp* op : options.domains[0]->ops) {
    EXPECT_STREQ(op->GetName(op), "TokenGather");
    EXPECT_EQ(op->GetInputTypeCount(op), 6u);
    EXPECT_EQ(op->GetOutputTypeCount(op), 3u);
    EXPECT_EQ(op->GetInputType(op, 2), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    for (std::size_t i : {1u, 3u, 4u, 5u}) EXPECT_EQ(op->GetInputType(op, i), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
    EXPECT_EQ(op->GetOutputType(op, 0), op->GetInputType(op, 0));
    for (std::size_t i : {1u, 2u}) EXPECT_EQ(op->GetOutputType(op, i), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
    for (std::size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(op->GetInputCharacteristic(op, i), INPUT_OUTPUT_REQUIRED);
      EXPECT_EQ(op->GetInputMemoryType(op, i), i < 2 ? OrtMemTypeDefault : OrtMemTypeCPUInput);
    }
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(op->GetOutputCharacteristic(op, i), INPUT_OUTPUT_REQUIRED);
    if (op->GetExecutionProviderType(op) == nullptr) types.push_back(op->GetInputType(op, 0));
  }
  EXPECT_EQ(types, (std::vector<ONNXTensorElementDataType>{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                           ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                                                           ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}));
}

TEST(Declaration, CudaHasEveryTypeToo) {
  OrtSessionOptions options;
  ASSERT_EQ(register_custom_ops()(&options, base<0>("1.99.0")), nullptr);
  std::size_t on_cuda = 0;
  for (const OrtCustomOp* op : options.domains[0]->ops) {
    const char* provider = op->GetExecutionProviderType(op);
    if (provider == nullptr) continue;
    EXPECT_STREQ(provider, "CUDAExecutionProvider");
    ++on_cuda;
  }
  EXPECT_EQ(on_cuda, WITH_CUDA ? 3u : 0u);
}

}  // namespace
