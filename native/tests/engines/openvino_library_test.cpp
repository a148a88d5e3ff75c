// Finding OpenVINO. Each case is a process of its own, as a library that is open stays.
#include "engines/openvino/library.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "engines/backend.hpp"
#include "runtime/world.hpp"

namespace ar {
namespace {

// Runs in a new process: writes the error's message, and ends with its status.
template <class Work>
void in_child(Work work) {
  std::string message;
  const int status = test::status_of(work, &message);
  std::fprintf(stderr, "%s\n", message.c_str());
  std::_Exit(status);
}

class OpenVinoLibraryDeath : public ::testing::Test {
 protected:
  OpenVinoLibraryDeath() { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(OpenVinoLibraryDeath, WhatIsNotThereIsNamedWithTheRemedy) {
  const auto open = [] { openvino_library("/nowhere/libopenvino_c.so.2641"); };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE),
              "/nowhere/libopenvino_c.so.2641.*pip install openvino");
}

TEST_F(OpenVinoLibraryDeath, ANamedVariableIsNotPassedOver) {
  const auto open = [] {
    setenv("ALLROUNDER_OPENVINO_LIBRARY", "/nowhere/else.so", 1);
    const std::optional<std::string> reason = why_not(kOpenVino);
    throw Error(AR_ENGINE_UNAVAILABLE, reason.value());
  };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE), "cannot be opened.*/nowhere/else.so");
}

TEST_F(OpenVinoLibraryDeath, AnotherKindOfLibraryIsRefused) {
  const auto open = [] { openvino_library(SOME_LIBRARY); };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE),
              "not OpenVINO's C API.*no ov_get_openvino_version.*2026.4 or newer");
}

TEST_F(OpenVinoLibraryDeath, AnOlderOneIsRefusedByItsVersion) {
  const auto open = [] {
    setenv("ALLROUNDER_OLD_OPENVINO", "2026.3.1-21000-abc", 1);
    openvino_library(OLD_OPENVINO);
  };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE),
              "too old.*2026.3.1-21000-abc.*2026.4 or newer");
}

TEST_F(OpenVinoLibraryDeath, OneThatLacksAFunctionIsRefusedByItsName) {
  const auto open = [] {
    setenv("ALLROUNDER_OLD_OPENVINO", "2027.0.0", 1);
    openvino_library(OLD_OPENVINO);
  };
  EXPECT_EXIT(in_child(open), ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE), "no ov_get_last_err_msg");
}

}  // namespace
}  // namespace ar
