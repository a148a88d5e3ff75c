#!/bin/sh
# Everything of the gather op that needs an NVIDIA GPU, in one command:
#
#   native/tests/gather/run_on_gpu.sh [BUILD]
#
# Builds the tests in BUILD (default: build/cuda; skipped where they stand there already, built elsewhere), runs the
# kernel against the CPU, under compute-sanitizer's four tools where that is installed, then the benchmark, then the
# Python tests of tests/gpu where there is a pytest. Fails where there is no device: nothing is passed by being skipped.
set -eu
root=$(cd "$(dirname "$0")/../../.." && pwd)
build=${1:-$root/build/cuda}
tests=$build/tests/gather
if [ ! -x "$tests/gather_cuda_test" ]; then
  cmake -S "$root/native" -B "$build" -DALLROUNDER_CUDA=ON ${ORT_ROOT:+"-DORT_ROOT=$ORT_ROOT"}
  cmake --build "$build" -j "$(nproc)" --target gather_cuda_test native_gather
  if grep -q 'ORT_INCLUDE_DIR:PATH=/' "$build/CMakeCache.txt"; then
    cmake --build "$build" -j "$(nproc)" --target allrounder_ort_ops
  else
    echo "ONNX Runtime's headers are not there (ORT_ROOT): built without the op's library for it"
  fi
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$tests/gather_cuda_test"
if "$tests/gather_cuda_test" --gtest_filter='GatherCuda.*' | grep -q SKIPPED; then
  echo "the tests found no device" >&2
  exit 1
fi
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    echo "compute-sanitizer: $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$tests/gather_cuda_test" --gtest_filter='GatherCuda.*-*Large*:*TooLong*'
  done
else
  echo "compute-sanitizer is not installed: not run"
fi
"$tests/native_gather"
if python3 -c 'import pytest' 2> /dev/null; then
  ALLROUNDER_NATIVE_BUILD=$build python3 -m pytest -q "$root/tests/gpu"
else
  echo "pytest is not installed: tests/gpu was not run"
fi
