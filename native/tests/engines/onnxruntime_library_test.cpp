// Finding ONNX Runtime. Each case is a process of its own, as a library that is open stays.
#include "engines/onnxruntime/library.hpp"

#include <gtest/gtest.h>

#include <cstdio>

#include "engines/backend.hpp"
#include "runtime/world.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

// Runs in a new process: writes the error's message, and ends with its status.
template <class Work>
void in_child(Work work) {
  std::string message;
  const int status = test::status_of(work, &message);
  std::fprintf(stderr, "%s\n", message.c_str());
  std::_Exit(status);
}

class OrtLibraryDeath : public ::testing::Test {
 protected:
  OrtLibraryDeath() { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(OrtLibraryDeath, WhatIsNotThereIsNamedWithTheRemedy) {
  const auto open = [] { ort_library("/nowhere/libonnxruntime.so.1"); };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE), "/nowhere/libonnxruntime.so.1.*remedy");
}

TEST_F(OrtLibraryDeath, ANamedVariableIsNotPassedOver) {
  const auto open = [] {
    setenv("ALLROUNDER_ORT_LIBRARY", "/nowhere/else.so", 1);
    ort_library("");
  };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE), "/nowhere/else.so");
}

TEST_F(OrtLibraryDeath, AnotherKindOfLibraryIsRefused) {
  const auto open = [] { ort_library(fs::path(SOME_LIBRARY).string()); };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE), "not ONNX Runtime");
}

TEST_F(OrtLibraryDeath, AnOlderOneIsRefusedByItsVersion) {
  const auto open = [] { ort_library(fs::path(OLD_LIBRARY).string()); };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE), "too old.*1\\.16\\.3");
}

TEST_F(OrtLibraryDeath, TheOpLibraryThatIsNamedMustBeThere) {
  const auto find = [] {
    setenv("ALLROUNDER_ORT_OPS", "/nowhere/ops.so", 1);
    ort_ops_library();
  };
  EXPECT_EXIT(in_child(find), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE), "/nowhere/ops.so");
}

class OrtLibrary : public test::OnBundle {};

TEST_F(OrtLibrary, IsOpenedOnceAndStays) {
  const auto& first = ort_library("");
  EXPECT_EQ(&ort_library(""), &first);
  EXPECT_EQ(&ort_library(first.path.string()), &first);
  EXPECT_EQ(&open_ort_library(), &first);
  EXPECT_EQ(first.version.rfind("1.", 0), 0u);
  std::string message;
  EXPECT_EQ(test::status_of([] { ort_library(SOME_LIBRARY); }, &message), AR_INPUT_INVALID);
  EXPECT_NE(message.find(first.path.string()), std::string::npos);
  EXPECT_STREQ(std::getenv("ORT_DISABLE_TELEMETRY"), "1");
}

TEST_F(OrtLibrary, IsPartOfTheFingerprint) {
  EngineOptions options;
  options.threads = 3;
  const Machine machine = backend(kOnnxRuntime).machine(options);
  EXPECT_EQ(machine.backend, "onnxruntime " + open_ort_library().version);
  EXPECT_EQ(machine.threads, 3);
  EXPECT_EQ(machine.gpu, "");
}

TEST_F(OrtLibrary, AGraphThatIsNoneIsABackendError) {
  const fs::path path = cache_ / "none.onnx";
  std::ofstream(path) << "no graph";
  std::string message;
  EXPECT_EQ(test::status_of([&] { backend(kOnnxRuntime).open_session(path, {}, false); }, &message), AR_BACKEND_ERROR);
  EXPECT_NE(message.find("none.onnx"), std::string::npos);
}

TEST_F(OrtLibrary, ADeviceThatIsNotThereIsNamed) {
  EngineOptions options;
  options.device = "cuda";
  std::string message;
  const ar_status status = test::status_of([&] { backend(kOnnxRuntime).machine(options); }, &message);
  if (status == AR_OK) GTEST_SKIP() << "this ONNX Runtime has the CUDA provider";
  EXPECT_EQ(status, AR_ENGINE_UNAVAILABLE);
  EXPECT_NE(message.find("onnxruntime-gpu"), std::string::npos);
}

}  // namespace
}  // namespace ar
