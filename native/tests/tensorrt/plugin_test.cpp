// The TensorRT plugin without TensorRT: what it answers to each question of the builder and of the runtime.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include "fakes.hpp"
#include "tensorrt/plugin.hpp"

namespace ar::tensorrt::testing {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorFormat;

class PluginTest : public ::testing::Test {
 protected:
  void SetUp() override { set_logger_finder(&log); }
  void TearDown() override { set_logger_finder(nullptr); }

  // Whether the one thing that was reported says `text`.
  bool reported(const std::string& text) const {
    return log.errors.size() == 1 && log.errors[0].find(text) != std::string::npos;
  }

  Log log;
};

nvinfer1::IPluginV3* create(const nvinfer1::PluginField& field) {
  const nvinfer1::PluginFieldCollection fields{1, &field};
  return creator().createPlugin("gather", &fields, nvinfer1::TensorRTPhase::kBUILD);
}

nvinfer1::PluginTensorDesc desc(DataType type, std::vector<std::int64_t> dims,
                                TensorFormat format = TensorFormat::kLINEAR) {
  nvinfer1::PluginTensorDesc made{};
  made.type = type;
  made.format = format;
  made.dims.nbDims = static_cast<std::int32_t>(dims.size());
  std::copy(dims.begin(), dims.end(), made.dims.d);
  return made;
}

std::vector<nvinfer1::PluginTensorDesc> inputs(std::int64_t batch, std::int64_t tokens, std::int64_t hidden) {
  return {desc(DataType::kHALF, {batch, tokens, hidden}), desc(DataType::kFLOAT, {batch, tokens}),
          desc(DataType::kINT64, {batch, tokens})};
}

std::int32_t change_shapes(Plugin* plugin, const std::vector<nvinfer1::PluginTensorDesc>& in) {
  const std::vector<nvinfer1::PluginTensorDesc> out(3);
  return plugin->onShapeChange(in.data(), 3, out.data(), 3);
}

TEST_F(PluginTest, CreatorSaysTheContractsNames) {
  EXPECT_STREQ(creator().getPluginName(), "TokenGather");
  EXPECT_STREQ(creator().getPluginVersion(), "1");
  EXPECT_STREQ(creator().getPluginNamespace(), "allrounder");
  const auto* fields = creator().getFieldNames();
  ASSERT_EQ(fields->nbFields, 1);
  EXPECT_STREQ(fields->fields[0].name, "k");
  EXPECT_EQ(fields->fields[0].type, PluginFieldType::kINT32);
}

TEST_F(PluginTest, IsMadeOfEitherInteger) {
  const std::int32_t small = 7;
  const std::int64_t large = 7;
  for (const nvinfer1::PluginField& field : {nvinfer1::PluginField("k", &small, PluginFieldType::kINT32, 1),
                                             nvinfer1::PluginField("k", &large, PluginFieldType::kINT64, 1)}) {
    const std::unique_ptr<nvinfer1::IPluginV3> plugin(create(field));
    ASSERT_NE(plugin, nullptr);
    auto* runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(
        plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
    const auto* saved = runtime->getFieldsToSerialize();
    ASSERT_EQ(saved->nbFields, 1);
    EXPECT_EQ(*static_cast<const std::int32_t*>(saved->fields[0].data), 7);
    const std::unique_ptr<nvinfer1::IPluginV3> again(create(saved->fields[0]));  // as a plan's reader makes it
    ASSERT_NE(again, nullptr);
  }
  EXPECT_TRUE(log.errors.empty());
}

TEST_F(PluginTest, WrongFieldsMakeNone) {
  const std::int32_t zero = 0;
  const std::int64_t huge = std::int64_t{1} << 40;
  const std::int32_t pair[] = {1, 2};
  const float real = 3;
  const struct {
    nvinfer1::PluginField field;
    const char* says;
  } wrong[] = {{{"k", &zero, PluginFieldType::kINT32, 1}, "got: k = 0; wanted: k of at least 1"},
               {{"k", &huge, PluginFieldType::kINT64, 1}, "k is too large"},
               {{"k", pair, PluginFieldType::kINT32, 2}, "got: 2 values; wanted: one"},
               {{"k", nullptr, PluginFieldType::kINT32, 1}, "k is not one integer"},
               {{"k", &real, PluginFieldType::kFLOAT32, 1}, "wanted: kINT32 or kINT64"},
               {{"K", &zero, PluginFieldType::kINT32, 1}, "k is missing"}};
  for (const auto& each : wrong) {
    log.errors.clear();
    EXPECT_EQ(create(each.field), nullptr);
    EXPECT_TRUE(reported(each.says)) << each.says;
  }
  log.errors.clear();
  EXPECT_EQ(creator().createPlugin("gather", nullptr, nvinfer1::TensorRTPhase::kRUNTIME), nullptr);
  EXPECT_TRUE(reported("k is missing"));
}

TEST_F(PluginTest, OutputsHaveTheContractsTypesAndShapes) {
  Plugin plugin(5);
  const DataType types[] = {DataType::kBF16, DataType::kFLOAT, DataType::kINT64};
  DataType outputs[3] = {};
  ASSERT_EQ(plugin.getNbOutputs(), 3);
  ASSERT_EQ(plugin.getOutputDataTypes(outputs, 3, types, 3), 0);
  EXPECT_EQ(outputs[0], DataType::kBF16);
  EXPECT_EQ(outputs[1], DataType::kINT64);
  EXPECT_EQ(outputs[2], DataType::kINT64);

  const Dimension batch(-1), tokens(-1), hidden(64);
  const nvinfer1::DimsExprs in[] = {{3, {&batch, &tokens, &hidden}}, {2, {&batch, &tokens}}, {2, {&batch, &tokens}}};
  nvinfer1::DimsExprs out[3] = {};
  Builder build;
  ASSERT_EQ(plugin.getOutputShapes(in, 3, nullptr, 0, out, 3, build), 0);
  ASSERT_EQ(out[0].nbDims, 3);
  EXPECT_EQ(out[0].d[0], &batch);
  EXPECT_EQ(out[0].d[1]->getConstantValue(), 5);
  EXPECT_EQ(out[0].d[2], &hidden);
  for (const int i : {1, 2}) {
    ASSERT_EQ(out[i].nbDims, 2);
    EXPECT_EQ(out[i].d[0], &batch);
    EXPECT_EQ(out[i].d[1]->getConstantValue(), 5);
  }
}

TEST_F(PluginTest, TakesLinearTensorsOfThreeTypes) {
  Plugin plugin(5);
  const auto supports = [&plugin](int index, DataType hidden, DataType type, TensorFormat format) {
    std::vector<nvinfer1::DynamicPluginTensorDesc> all(6);
    all[0].desc = desc(hidden, {});
    all[static_cast<std::size_t>(index)].desc = desc(type, {}, format);
    return plugin.supportsFormatCombination(index, all.data(), 3, 3);
  };
  for (const DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
    EXPECT_TRUE(supports(0, type, type, TensorFormat::kLINEAR));
    EXPECT_TRUE(supports(3, type, type, TensorFormat::kLINEAR));
    EXPECT_FALSE(supports(0, type, type, TensorFormat::kHWC8));
    EXPECT_FALSE(supports(3, type, DataType::kINT8, TensorFormat::kLINEAR));
  }
  EXPECT_FALSE(supports(0, DataType::kINT8, DataType::kINT8, TensorFormat::kLINEAR));
  EXPECT_FALSE(supports(3, DataType::kHALF, DataType::kFLOAT, TensorFormat::kLINEAR));
  EXPECT_TRUE(supports(1, DataType::kHALF, DataType::kFLOAT, TensorFormat::kLINEAR));
  EXPECT_FALSE(supports(1, DataType::kHALF, DataType::kHALF, TensorFormat::kLINEAR));
  for (const int index : {2, 4, 5}) {
    EXPECT_TRUE(supports(index, DataType::kHALF, DataType::kINT64, TensorFormat::kLINEAR));
    EXPECT_FALSE(supports(index, DataType::kHALF, DataType::kINT32, TensorFormat::kLINEAR));
  }
}

TEST_F(PluginTest, ImpossibleProfilesAreRefusedWhenAnEngineIsBuilt) {
  Plugin plugin(9);
  const auto configure = [&plugin](std::int64_t most_tokens) {
    std::vector<nvinfer1::DynamicPluginTensorDesc> in(3);
    const std::vector<nvinfer1::PluginTensorDesc> most = inputs(4, most_tokens, 8);
    for (std::size_t i = 0; i < 3; ++i) in[i].max = most[i].dims;
    const std::vector<nvinfer1::DynamicPluginTensorDesc> out(3);
    return plugin.configurePlugin(in.data(), 3, out.data(), 3);
  };
  EXPECT_EQ(configure(9), 0);
  EXPECT_TRUE(log.errors.empty());
  EXPECT_NE(configure(8), 0);
  EXPECT_TRUE(reported("got: k = 9 of N = 8"));
}

TEST_F(PluginTest, ImpossibleShapesAreRefusedBeforeARun) {
  Plugin plugin(5);
  EXPECT_EQ(change_shapes(&plugin, inputs(2, 5, 8)), 0);
  EXPECT_TRUE(log.errors.empty());
  EXPECT_NE(change_shapes(&plugin, inputs(2, 4, 8)), 0);
  EXPECT_TRUE(reported("got: k = 5 of N = 4"));
  log.errors.clear();
  std::vector<nvinfer1::PluginTensorDesc> crooked = inputs(2, 5, 8);
  crooked[1].dims.d[1] = 6;
  EXPECT_NE(change_shapes(&plugin, crooked), 0);
  EXPECT_TRUE(reported("scores do not fit hidden [2, 5, 8]; got: [2, 6]"));
}

TEST_F(PluginTest, WrongNumbersOfTensorsAreRefused) {
  Plugin plugin(5);
  DataType types[3] = {};
  EXPECT_NE(plugin.getOutputDataTypes(types, 2, types, 3), 0);
  EXPECT_TRUE(reported("got: 3 inputs, 2 outputs; wanted: 3 and 3"));
}

TEST_F(PluginTest, ClonesKeepTheBudget) {
  Plugin plugin(6);
  for (nvinfer1::IPluginV3* made : {plugin.clone(), plugin.attachToContext(nullptr)}) {
    ASSERT_NE(made, nullptr);
    const std::unique_ptr<nvinfer1::IPluginV3> copy(made);
    auto* other = dynamic_cast<Plugin*>(copy.get());
    ASSERT_NE(other, nullptr);
    EXPECT_NE(other, &plugin);
    EXPECT_EQ(*static_cast<const std::int32_t*>(other->getFieldsToSerialize()->fields[0].data), 6);
  }
}

// By path and by hand, from the built library itself.
class LibraryTest : public ::testing::Test {
 protected:
  template <typename Function>
  static Function symbol(const char* name) {
    static void* library = dlopen(PLUGIN_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(library, nullptr) << dlerror();
    return reinterpret_cast<Function>(dlsym(library, name));
  }
  using Register = const char* (*)(void*, int);
};

TEST_F(LibraryTest, GivesItsCreatorByPath) {
  std::int32_t count = 0;
  const auto get = symbol<nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&)>("getCreators");
  nvinfer1::IPluginCreatorInterface* const* const creators = get(count);
  ASSERT_EQ(count, 1);
  EXPECT_STREQ(static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0])->getPluginName(), "TokenGather");
  Log log;
  symbol<void (*)(nvinfer1::ILoggerFinder*)>("setLoggerFinder")(&log);
  const nvinfer1::PluginFieldCollection none{0, nullptr};
  auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
  EXPECT_EQ(creator->createPlugin("gather", &none, nvinfer1::TensorRTPhase::kBUILD), nullptr);
  EXPECT_EQ(log.errors.size(), 1u);
  symbol<void (*)(nvinfer1::ILoggerFinder*)>("setLoggerFinder")(nullptr);
}

TEST_F(LibraryTest, RegistersByHandOnce) {
  const auto add = symbol<Register>("allrounder_register_tensorrt_plugins");
  Registry registry;
  nvinfer1::IPluginRegistry* const base = &registry;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(add(base, NV_TENSORRT_MAJOR * 10000 + 300), nullptr);
  ASSERT_EQ(registry.creators.size(), 1u);
  EXPECT_EQ(registry.name_space, "allrounder");
}

TEST_F(LibraryTest, SaysWhyItIsNotRegistered) {
  const auto add = symbol<Register>("allrounder_register_tensorrt_plugins");
  Registry registry;
  nvinfer1::IPluginRegistry* const base = &registry;
  registry.refuses = true;
  EXPECT_NE(std::string(add(base, NV_TENSORRT_MAJOR * 10000)).find("refuses the creator"), std::string::npos);
  EXPECT_NE(std::string(add(nullptr, NV_TENSORRT_MAJOR * 10000)).find("no plugin registry"), std::string::npos);
  const std::string other = add(base, (NV_TENSORRT_MAJOR + 1) * 10000);
  const std::string says = "another major version of TensorRT; wanted: " + std::to_string(NV_TENSORRT_MAJOR);
  EXPECT_NE(other.find(says), std::string::npos) << other;
}

}  // namespace
}  // namespace ar::tensorrt::testing
