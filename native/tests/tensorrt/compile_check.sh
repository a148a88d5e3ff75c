#!/bin/sh
# Compiles the TensorRT plugin against several versions of TensorRT's headers, and runs its tests with each.
#
#   native/tests/tensorrt/compile_check.sh CUDA_INCLUDE TENSORRT_INCLUDE...
#
# CUDA_INCLUDE holds cuda_runtime_api.h, each TENSORRT_INCLUDE holds NvInferRuntime.h. No libnvinfer, nvcc or device is
# needed: the kernel is left out. Fails at the first warning in our code, undefined symbol or failed test.
set -eu
if [ $# -lt 2 ]; then
  sed -n '2,7p' "$0" >&2
  exit 2
fi
native=$(cd "$(dirname "$0")/../.." && pwd)
cuda=$1
shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
plugin="$native/src/tensorrt"
for headers in "$@"; do
  flags="-std=c++17 -O1 -fPIC -fvisibility=hidden -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror \
    -I$native/src -I$native/include -isystem $headers -isystem $cuda"
  version=$(echo NV_TENSORRT_MAJOR.NV_TENSORRT_MINOR |
    ${CXX:-c++} -E -P -x c++ -include "$headers/NvInferVersion.h" - | tail -1 | tr -d ' ')
  # shellcheck disable=SC2086 # flags are words
  ${CXX:-c++} $flags -shared -o "$out/plugin.so" "$plugin/plugin.cpp" "$plugin/creator.cpp" "$plugin/report.cpp" \
    "$plugin/register.cpp" "$native/src/gather/gather.cpp" "$native/src/gather/cuda_absent.cpp" \
    -Wl,--no-undefined -Wl,--version-script="$plugin/exports.lds"
  # shellcheck disable=SC2086
  ${CXX:-c++} $flags -Wno-deprecated-declarations -DPLUGIN_LIBRARY="\"$out/plugin.so\"" -o "$out/test" \
    "$native/tests/tensorrt/plugin_test.cpp" "$plugin/plugin.cpp" "$plugin/creator.cpp" "$plugin/report.cpp" \
    "$native/src/gather/gather.cpp" "$native/src/gather/cuda_absent.cpp" -lgtest -lgtest_main -lpthread -ldl
  "$out/test" --gtest_brief=1
  echo "TensorRT $version: compiled without a warning, no undefined symbol, tests passed"
done
