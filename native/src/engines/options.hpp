// How an engine is opened: the record of engines/options.py.
#pragma once

#include <functional>
#include <string>

namespace ar {

// The log: what happened that no caller asked for.
enum class Level { kInfo = 0, kWarning = 1 };
using Log = std::function<void(Level level, const std::string& message)>;  // empty: nothing is logged

inline void note(const Log& log, Level level, const std::string& message) {
  if (log) log(level, message);
}

enum class Weights {
  kFast,   // each session packs a copy of its own
  kShared  // the file is mapped once for all; slower
};

struct EngineOptions {
  int threads = 0;  // CPU threads that one step uses; 0: all usable cores
  Weights weights = Weights::kFast;
  std::string device = "cpu";  // "cpu", "cuda" or "cuda:1"
  // Which of ONNX Runtime's providers works on a GPU: "cuda", or "tensorrt" with what it leaves to "cuda". The other
  // backends have none.
  std::string provider = "cuda";
  std::string ort_library;       // path of ONNX Runtime's library; empty: the search order of c_api.h
  std::string openvino_library;  // and of OpenVINO's C API
  Log log;                       // gets what happens while engines are opened

  void check() const;  // throws AR_INPUT_INVALID
  int thread_count() const;
  bool on_cpu() const { return device == "cpu"; }
  bool on_tensorrt() const { return provider == "tensorrt"; }  // then not on the CPU
  int device_index() const;  // of "cuda:1": 1; else 0
};

}  // namespace ar
