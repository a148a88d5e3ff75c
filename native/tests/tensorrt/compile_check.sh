#!/bin/sh
# Compiles what is ours of TensorRT against several versions of its headers, and runs the tests with each: the plugin,
# and the runtime's backend, which meets a made-up libnvinfer and a made-up CUDA here.
#
#   native/tests/tensorrt/compile_check.sh CUDA_INCLUDE TENSORRT_INCLUDE...
#
# CUDA_INCLUDE holds cuda_runtime_api.h, each TENSORRT_INCLUDE holds NvInferRuntime.h. No libnvinfer, nvcc or device is
# needed: the kernel is left out. Fails at the first warning in our code, undefined symbol or failed test.
set -eu
if [ $# -lt 2 ]; then
  sed -n '2,8p' "$0" >&2
  exit 2
fi
native=$(cd "$(dirname "$0")/../.." && pwd)
cuda=$1
shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cxx=${CXX:-c++}
plugin="$native/src/tensorrt"
tests="$native/tests/tensorrt"
ours="-std=c++17 -O1 -fPIC -fvisibility=hidden -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -I$native/src -I$native/include"

# What knows no header of TensorRT is compiled once. Of these files a part is wanted; the linker drops the rest, and with
# it what the rest asks for.
mkdir "$out/core"
for source in contract/error contract/places contract/tensors engines/backend engines/mapped_file \
  engines/options engines/tensorrt/backend engines/tensorrt/plans engines/tensorrt/session; do
  # shellcheck disable=SC2086 # flags are words
  $cxx $ours -ffunction-sections -fdata-sections -c "$native/src/$source.cpp" -o "$out/core/$(echo "$source" | tr / _).o"
done
$cxx -shared -fPIC -o "$out/some_library.so" "$native/tests/engines/doubles/some_library.cpp"
# shellcheck disable=SC2086 # and its functions are seen by the made-up libnvinfer
$cxx $ours -fvisibility=default -isystem "$cuda" -c "$tests/cuda_double.cpp" -o "$out/cuda_double.o"

for headers in "$@"; do
  flags="$ours -isystem $headers -isystem $cuda"
  version=$(echo NV_TENSORRT_MAJOR.NV_TENSORRT_MINOR |
    $cxx -E -P -x c++ -include "$headers/NvInferVersion.h" - | tail -1 | tr -d ' ')

  # shellcheck disable=SC2086
  $cxx $flags -shared -o "$out/plugin.so" "$plugin/plugin.cpp" "$plugin/creator.cpp" \
    "$plugin/register.cpp" "$native/src/gather/gather.cpp" "$native/src/gather/cuda_absent.cpp" \
    -Wl,--no-undefined -Wl,--version-script="$plugin/exports.lds"
  # shellcheck disable=SC2086
  $cxx $flags -Wno-deprecated-declarations -DPLUGIN_LIBRARY="\"$out/plugin.so\"" -o "$out/plugin_test" \
    "$tests/plugin_test.cpp" "$plugin/plugin.cpp" "$plugin/creator.cpp" \
    "$native/src/gather/gather.cpp" -lgtest -lgtest_main -lpthread -ldl
  "$out/plugin_test" --gtest_brief=1

  for source in cuda library; do
    # shellcheck disable=SC2086
    $cxx $flags -c "$native/src/engines/tensorrt/$source.cpp" -o "$out/$source.o"
  done
  # The adapter asks the linker for what is ours, the C++ library, and CUDA's runtime, which is static; never for TensorRT.
  $cxx -shared -o "$out/adapter.so" "$out/cuda.o" "$out/library.o" -ldl
  if nm -D --undefined-only "$out/adapter.so" | grep -vE '@(GLIBC|GLIBCXX|CXXABI|GCC)_| w | U cuda[A-Z]| U _ZNK?2ar| U _ZTIN2ar'; then
    echo "TensorRT $version: these symbols should not be asked for" >&2
    exit 1
  fi
  {
    echo '#include <cstdlib>'
    echo 'namespace nvinfer1::apiv {'
    awk '/^class V(Runtime|CudaEngine|ExecutionContext) : public/, /^};/' "$headers/NvInferImpl.h" |
      sed 's/^class V\([A-Za-z]*\) : public VRoot/class Stub\1 : public V\1/; s/= 0;/override { std::abort(); }/'
    echo '}'
  } >"$out/nvinfer_stubs.hpp"
  # shellcheck disable=SC2086
  $cxx $flags -Wno-deprecated-declarations -isystem "$out" -shared -o "$out/nvinfer_double.so" "$tests/nvinfer_double.cpp"
  # shellcheck disable=SC2086
  $cxx $flags -I"$native/tests" -DNVINFER_DOUBLE="\"$out/nvinfer_double.so\"" -DSOME_LIBRARY="\"$out/some_library.so\"" \
    -rdynamic -Wl,--gc-sections -o "$out/library_test" "$tests/library_test.cpp" "$out"/core/*.o "$out/cuda_double.o" \
    "$out/cuda.o" "$out/library.o" -lgtest -lgtest_main -lpthread -ldl
  "$out/library_test" --gtest_brief=1
  echo "TensorRT $version: compiled without a warning, no undefined symbol, tests passed"
done
