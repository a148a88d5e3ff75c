// The one stopwatch: latencies of several engines on one workload, interleaved; runtime/measure.py.
//
// What it knows: the engine's phases and a clock. What it does not know: who asks, and which engine is best.
//
// A request is one random picture and one prompt of the workload's length; tokens are drawn greedily and stop tokens
// are passed over, so that every request has the same length.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "contract/progress.hpp"
#include "runtime/engine.hpp"

namespace ar {

struct Samples {  // milliseconds, one each per request
  std::vector<double> ttft;
  std::vector<double> tpot;  // mean over the request's further tokens
};

struct Effort {
  int repeats = 20;               // rounds that are counted
  std::optional<double> seconds;  // end after the first counted round that ends later than this, warm-up included
};

// Returns the workload on which entries of this bundle are compared, within its limits.
Workload default_workload(const Engine& engine);

// Times requests, interleaved over the engines, after two warm-up rounds that are thrown away. Throws AR_INPUT_INVALID
// (a workload that an engine cannot run) or AR_BACKEND_ERROR.
std::vector<Samples> sample_latency(const std::vector<Engine>& engines, const Workload& workload, const Effort& effort,
                                    const Progress& progress = {});

// Returns the percentiles as the manifest holds them: linear between samples, rounded to 0.1 microseconds.
Percentiles percentiles(std::vector<double> values);

// Both: the latency of each engine on this machine.
std::vector<Latency> measure_latency(const std::vector<Engine>& engines, const Workload& workload,
                                     const Effort& effort);

}  // namespace ar
