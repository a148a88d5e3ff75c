// The TensorRT plugin without TensorRT: what it answers to each question of the builder and of the runtime. The op for
// CUDA is the op for CPUs here, over the host's memory.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include "../gather/cases.hpp"
#include "fakes.hpp"
#include "gather/gather_cuda.hpp"
#include "tensorrt/plugin.hpp"

namespace ar::gather {
namespace {

std::string cuda_failure;  // what the made-up device says

}  // namespace

Choice choose_cuda(const Shape& shape, const Candidates& candidates, void*) {
  return cuda_failure.empty() ? choose(shape, candidates) : Choice{{}, {}, cuda_failure};
}

std::string gather_cuda(const Shape& shape, const Choice& choice, std::size_t element_bytes, const Tensors& tensors,
                        void*) {
  if (cuda_failure.empty()) gather_cpu(shape, choice, element_bytes, tensors);
  return cuda_failure;
}

}  // namespace ar::gather

namespace ar::tensorrt::testing {
namespace {

using gather::testing::Case;
using nvinfer1::DataType;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

class PluginTest : public ::testing::Test {
 protected:
  void SetUp() override { set_logger_finder(&log); }
  void TearDown() override {
    set_logger_finder(nullptr);
    gather::cuda_failure.clear();
  }

  // Whether the one thing that was reported says `text`.
  bool reported(const std::string& text) const {
    return log.errors.size() == 1 && log.errors[0].find(text) != std::string::npos;
  }

  Log log;
};

nvinfer1::PluginTensorDesc desc(DataType type, std::vector<std::int64_t> dims,
                                TensorFormat format = TensorFormat::kLINEAR) {
  nvinfer1::PluginTensorDesc made{};
  made.type = type;
  made.format = format;
  made.dims.nbDims = static_cast<std::int32_t>(dims.size());
  std::copy(dims.begin(), dims.end(), made.dims.d);
  return made;
}

using Descs = std::vector<nvinfer1::PluginTensorDesc>;

Descs inputs(const gather::Shape& s, std::int64_t to_keep) {
  return {desc(DataType::kHALF, {s.batch, s.rows, s.hidden}),
          desc(DataType::kINT64, {s.axes, s.batch, s.rows}),
          desc(DataType::kFLOAT, {s.tokens}),
          desc(DataType::kINT64, {s.tokens}),
          desc(DataType::kINT64, {s.tokens}),
          desc(DataType::kINT64, {s.images}),
          desc(DataType::kINT64, {to_keep})};
}

std::int32_t change_shapes(Plugin* plugin, const Descs& in) {
  const Descs out(3);
  return plugin->onShapeChange(in.data(), 7, out.data(), 3);
}

// Runs the plugin once, for `to_keep` tokens, of which no value is there.
std::int32_t run(TensorRTPhase phase, const Case& c, const gather::testing::Inputs& in, std::int64_t to_keep,
                 gather::testing::Outputs* out) {
  Plugin plugin(phase);
  const Descs descs = inputs(c.shape(), to_keep);
  EXPECT_EQ(change_shapes(&plugin, descs), 0);
  *out = room(c, to_keep);
  const void* const from[] = {in.hidden.data(),   in.position_ids.data(), in.scores.data(), in.image_index.data(),
                              in.image_of.data(), in.keep_counts.data(),  nullptr};
  void* const to[] = {out->gathered.data(), out->position_ids.data(), out->keep.data()};
  return plugin.enqueue(descs.data(), nullptr, from, to, nullptr, nullptr);
}

TEST_F(PluginTest, CreatorSaysTheContractsNames) {
  EXPECT_STREQ(creator().getPluginName(), "TokenGather");
  EXPECT_STREQ(creator().getPluginVersion(), "1");
  EXPECT_STREQ(creator().getPluginNamespace(), "allrounder");
  EXPECT_EQ(creator().getFieldNames()->nbFields, 0);
}

TEST_F(PluginTest, IsMadeOfNoFieldsAndSavesNone) {
  const nvinfer1::PluginFieldCollection none{0, nullptr};
  for (const auto* fields : {&none, static_cast<const nvinfer1::PluginFieldCollection*>(nullptr)}) {
    const std::unique_ptr<nvinfer1::IPluginV3> plugin(
        creator().createPlugin("gather", fields, TensorRTPhase::kBUILD));
    ASSERT_NE(plugin, nullptr);
    auto* runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(
        plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
    EXPECT_EQ(runtime->getFieldsToSerialize()->nbFields, 0);
  }
  EXPECT_TRUE(log.errors.empty());
}

TEST_F(PluginTest, OutputsHaveTheContractsTypes) {
  Plugin plugin(TensorRTPhase::kRUNTIME);
  const DataType types[] = {DataType::kBF16,  DataType::kINT64, DataType::kFLOAT, DataType::kINT64,
                            DataType::kINT64, DataType::kINT64, DataType::kINT64};
  DataType outputs[3] = {};
  ASSERT_EQ(plugin.getNbOutputs(), 3);
  ASSERT_EQ(plugin.getOutputDataTypes(outputs, 3, types, 7), 0);
  EXPECT_EQ(outputs[0], DataType::kBF16);
  for (const int i : {1, 2}) EXPECT_EQ(outputs[i], DataType::kINT64);
}

TEST_F(PluginTest, SizesOfOutputsFollowFromLengths) {
  Plugin plugin(TensorRTPhase::kRUNTIME);
  const struct {
    std::int64_t batch, rows, tokens, images, to_keep;
  } runs[] = {{1, 20, 9, 2, 4}, {1, 9, 9, 1, 0}, {1, 9, 9, 1, 9}, {8, 1, 0, 0, 0}};
  for (const auto& each : runs) {
    const Dimension batch(each.batch), rows(each.rows), hidden(64), axes(3), tokens(each.tokens), images(each.images),
        to_keep(each.to_keep);
    const nvinfer1::DimsExprs in[] = {
        {3, {&batch, &rows, &hidden}}, {3, {&axes, &batch, &rows}}, {1, {&tokens}}, {1, {&tokens}}, {1, {&tokens}},
        {1, {&images}},                {1, {&to_keep}}};
    nvinfer1::DimsExprs out[3] = {};
    Builder build;
    ASSERT_EQ(plugin.getOutputShapes(in, 7, nullptr, 0, out, 3, build), 0);
    const auto dims = [&out](int index) {
      std::vector<std::int64_t> made;
      for (int i = 0; i < out[index].nbDims; ++i) made.push_back(out[index].d[i]->getConstantValue());
      return made;
    };
    const std::int64_t left = each.rows - each.tokens + each.to_keep;
    EXPECT_EQ(dims(0), (std::vector<std::int64_t>{each.batch, left, 64}));
    EXPECT_EQ(dims(1), (std::vector<std::int64_t>{3, each.batch, left}));
    EXPECT_EQ(dims(2), (std::vector<std::int64_t>{each.to_keep}));
    for (const auto& [index, name] : {std::pair(2, "scores"), std::pair(6, "tokens_to_keep")}) {
      nvinfer1::DimsExprs crooked[7];
      std::copy_n(in, 7, crooked);
      crooked[index].nbDims = 2;
      log.errors.clear();
      EXPECT_NE(plugin.getOutputShapes(crooked, 7, nullptr, 0, out, 3, build), 0);
      EXPECT_TRUE(reported(name + std::string(" has a wrong rank; got: 2; wanted: 1")));
    }
  }
}

TEST_F(PluginTest, TakesLinearTensorsOfThreeTypes) {
  Plugin plugin(TensorRTPhase::kRUNTIME);
  const auto supports = [&plugin](int index, DataType hidden, DataType type, TensorFormat format) {
    std::vector<nvinfer1::DynamicPluginTensorDesc> all(10);
    all[0].desc = desc(hidden, {});
    all[static_cast<std::size_t>(index)].desc = desc(type, {}, format);
    return plugin.supportsFormatCombination(index, all.data(), 7, 3);
  };
  for (const DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
    EXPECT_TRUE(supports(0, type, type, TensorFormat::kLINEAR));
    EXPECT_TRUE(supports(7, type, type, TensorFormat::kLINEAR));
    EXPECT_FALSE(supports(0, type, type, TensorFormat::kHWC8));
    EXPECT_FALSE(supports(7, type, DataType::kINT8, TensorFormat::kLINEAR));
  }
  EXPECT_FALSE(supports(0, DataType::kINT8, DataType::kINT8, TensorFormat::kLINEAR));
  EXPECT_FALSE(supports(7, DataType::kHALF, DataType::kFLOAT, TensorFormat::kLINEAR));
  EXPECT_TRUE(supports(2, DataType::kHALF, DataType::kFLOAT, TensorFormat::kLINEAR));
  EXPECT_FALSE(supports(2, DataType::kHALF, DataType::kHALF, TensorFormat::kLINEAR));
  for (const int index : {1, 3, 4, 5, 6, 8, 9}) {
    EXPECT_TRUE(supports(index, DataType::kHALF, DataType::kINT64, TensorFormat::kLINEAR));
    EXPECT_FALSE(supports(index, DataType::kHALF, DataType::kINT32, TensorFormat::kLINEAR));
  }
}

TEST_F(PluginTest, ImpossibleShapesAreRefusedBeforeARun) {
  Plugin plugin(TensorRTPhase::kRUNTIME);
  const Descs fitting = inputs({1, 9, 8, 3, 5, 2}, 5);
  EXPECT_EQ(change_shapes(&plugin, fitting), 0);
  EXPECT_EQ(change_shapes(&plugin, inputs({4, 1, 8, 3, 0, 0}, 0)), 0);
  EXPECT_TRUE(log.errors.empty());
  Descs crooked = fitting, matrix = fitting;
  crooked[3].dims.d[0] = 6;
  matrix[6].dims.nbDims = 2;
  for (const auto& [descs, says] :
       {std::pair(inputs({2, 9, 8, 3, 5, 2}, 5), "image tokens in a batch; got: N = 5, B = 2"),
        std::pair(crooked, "image_index does not fit scores [5]; got: [6]"),
        std::pair(matrix, "tokens_to_keep has a wrong rank; got: 2; wanted: 1"),
        std::pair(inputs({1, 9, 8, 3, 5, 2}, 6), "tokens_to_keep is too long; got: T = 6; wanted: at most N = 5"),
        std::pair(inputs({4, 1, 8, 3, 0, 0}, 1), "tokens_to_keep is too long; got: T = 1; wanted: at most N = 0")}) {
    log.errors.clear();
    EXPECT_NE(change_shapes(&plugin, descs), 0);
    EXPECT_TRUE(reported(says)) << says;
  }
}

const Case kPrompt{{5, 3}, {2, 3}, 4, 6, 2, gather::testing::Scores::kTied, 3, 1, 3};
const Case kNewTokens{{}, {}, 1, 6, 2, gather::testing::Scores::kRandom, 4, 8, 3};

TEST_F(PluginTest, ARunIsTheOp) {
  for (const auto phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
    for (const auto& [c, to_keep] : {std::pair(kPrompt, 5), std::pair(kNewTokens, 0)}) {
      const auto in = make_inputs(c);
      gather::testing::Outputs out;
      ASSERT_EQ(run(phase, c, in, to_keep, &out), 0);
      EXPECT_TRUE(out == reference(c, in)) << c;
    }
  }
}

TEST_F(PluginTest, CountsThatAreNotTheLengthAreRefusedAtARun) {
  const auto in = make_inputs(kPrompt);
  gather::testing::Outputs out;
  for (const std::int64_t to_keep : {0, 4, 6}) {
    log.errors.clear();
    EXPECT_NE(run(TensorRTPhase::kRUNTIME, kPrompt, in, to_keep, &out), 0);
    EXPECT_TRUE(reported("keep_counts and tokens_to_keep differ; got: 5 tokens by keep_counts; wanted: T = " +
                         std::to_string(to_keep)));
    EXPECT_TRUE(out == room(kPrompt, to_keep));  // nothing was written
  }
}

TEST_F(PluginTest, ABuilderMayRunItOverAnyValues) {
  auto in = make_inputs(kPrompt);
  gather::testing::Outputs out;
  for (const bool possible : {true, false}) {  // for tokens, but not the length; and not even for tokens
    if (!possible) in.image_of[0] = in.keep_counts[0] = in.image_index[0] = -7;
    for (const std::int64_t to_keep : {0, 3, 8}) {
      EXPECT_EQ(run(TensorRTPhase::kBUILD, kPrompt, in, to_keep, &out), 0);
      EXPECT_EQ(out.gathered, std::vector(in.hidden.begin(), in.hidden.begin() + (4 + to_keep) * 6 * 2));
      EXPECT_EQ(out.keep.size(), static_cast<std::size_t>(to_keep));
    }
  }
  EXPECT_TRUE(log.errors.empty());
}

TEST_F(PluginTest, WhatTheDeviceRefusesIsSaidWhateverThePhase) {
  gather::cuda_failure = "TokenGather: no CUDA device";
  gather::testing::Outputs out;
  for (const auto phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
    log.errors.clear();
    EXPECT_NE(run(phase, kPrompt, make_inputs(kPrompt), 5, &out), 0);
    EXPECT_TRUE(reported("TokenGather: no CUDA device"));
  }
}

TEST_F(PluginTest, WrongNumbersOfTensorsAreRefused) {
  Plugin plugin(TensorRTPhase::kRUNTIME);
  DataType types[7] = {};
  EXPECT_NE(plugin.getOutputDataTypes(types, 3, types, 6), 0);
  EXPECT_TRUE(reported("got: 6 inputs, 3 outputs; wanted: 7 and 3"));
  log.errors.clear();
  EXPECT_NE(plugin.configurePlugin(nullptr, 7, nullptr, 5), 0);
  EXPECT_TRUE(reported("got: 7 inputs, 5 outputs; wanted: 7 and 3"));
}

TEST_F(PluginTest, ClonesAreOthers) {
  Plugin plugin(TensorRTPhase::kRUNTIME);
  for (nvinfer1::IPluginV3* made : {plugin.clone(), plugin.attachToContext(nullptr)}) {
    ASSERT_NE(made, nullptr);
    const std::unique_ptr<nvinfer1::IPluginV3> copy(made);
    EXPECT_NE(dynamic_cast<Plugin*>(copy.get()), &plugin);
    EXPECT_NE(dynamic_cast<Plugin*>(copy.get()), nullptr);
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
  auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
  const std::unique_ptr<nvinfer1::IPluginV3> plugin(
      creator->createPlugin("gather", nullptr, TensorRTPhase::kBUILD));
  ASSERT_NE(plugin, nullptr);
  auto* build = static_cast<nvinfer1::IPluginV3OneBuild*>(
      plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
  EXPECT_NE(build->configurePlugin(nullptr, 0, nullptr, 0), 0);
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
