// Stands in for the CUDA runtime, in the host's memory: work is done when its stream is waited for, or is captured.
// What it cannot show is that a device does the same.
#pragma once

namespace ar::testing {

struct CudaDouble {
  int blocks = 0, streams = 0, graphs = 0, executables = 0;  // that were made and are not yet destroyed
  int launches = 0;
  bool refuses_capture = false, has_memory = true;
};

CudaDouble& cuda_double();

}  // namespace ar::testing
