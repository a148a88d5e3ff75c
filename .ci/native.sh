# shellcheck shell=bash
# The native half's steps, as functions. They want `work`, a folder to be thrown away, and an active venv.

: "${work:?a folder to be thrown away}"

# native_packages [PACKAGE...]: installs what building and testing wants of Debian, and these, where missing.
native_packages() {
  local package missing=()
  for package in ccache g++ cmake ninja-build pkg-config libgtest-dev nlohmann-json3-dev "$@"; do
    dpkg-query --show --showformat='${Status}\n' "$package" 2>/dev/null | grep -qx 'install ok installed' ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "installing ${missing[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}" >"$work/apt.log" ||
    { cat "$work/apt.log"; return 1; }
}

# ONNX Runtime's headers, its library and OpenVINO's from the installed wheels, and the unit tests' bundle.
native_environment() {
  native/tools/fetch_ort_headers.sh "$work/ort"
  export ORT_ROOT=$work/ort/usr
  ALLROUNDER_ORT_LIBRARY=$(python -c 'from allrounder.native.c_api import installed_ort; print(installed_ort())')
  ALLROUNDER_OPENVINO_LIBRARY=$(python -c 'from allrounder.native.c_api import installed_openvino; print(installed_openvino())')
  OPENVINO_ROOT=${ALLROUNDER_OPENVINO_LIBRARY%/libs/*} # its headers, which a test compares with ours
  export ALLROUNDER_ORT_LIBRARY ALLROUNDER_OPENVINO_LIBRARY OPENVINO_ROOT
  python native/tests/write_bundle.py "$work/bundle"
  export ALLROUNDER_TEST_BUNDLE=$work/bundle
}

# native_build PRESET [TARGET...]: into build/native/PRESET; without ONNX Runtime's headers the presets fail.
native_build() {
  cmake --preset "$1" -S native -Wno-dev -U "ORT_*" -U "OPENVINO_*" -DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache >"$work/configure.log" || { cat "$work/configure.log"; return 1; }
  grep -- '-- allrounder ' "$work/configure.log"
  cmake --build "build/native/$1" -- --quiet "${@:2}"
}

# native_test PRESET [ARGUMENT...]: ctest names what failed and what was skipped at its end; no test at all is a failure.
native_test() {
  ctest --test-dir "build/native/$1" -j2 --output-on-failure --no-tests=error "${@:2}"
}

# The wheel without the native half: the runtime alone, without torch.
pure_wheel() {
  pip wheel -q --no-deps -w "$work/pure" .
  python3 -m venv "$work/pure-venv"
  "$work/pure-venv/bin/pip" install -q -c requirements/lock.txt "$work"/pure/*-none-any.whl
  (cd / && "$work/pure-venv/bin/python" -c "import sys, allrounder.runtime; assert 'torch' not in sys.modules")
  (cd / && "$work/pure-venv/bin/python" -c "import allrounder.native as native; assert native.library() is None")
  "$work/pure-venv/bin/allrounder" run --help >/dev/null
}

native_asan() {
  native_build asan
  native_test asan
  ALLROUNDER_NATIVE_BUILD=build/native/asan ALLROUNDER_NATIVE_ASAN_BUILD=build/native/asan \
    pytest tests/native -k "hostile or contract_parity or image_parity or (text_parity and not every_code_point)"
}

# native_fuzz SECONDS: each target of native/fuzz for so long, from its corpus; a finding stops the run.
native_fuzz() {
  local target targets words
  targets=$(sed -n 's/^allrounder_fuzz(\(.*\))$/\1/p' native/fuzz/CMakeLists.txt)
  [ -n "$targets" ]
  # shellcheck disable=SC2086
  native_build fuzz $targets
  for target in $targets; do
    mkdir "$work/$target"
    words=native/fuzz/$target.dict
    [ -f "$words" ] || words=
    "build/native/fuzz/fuzz/$target" -max_total_time="$1" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
      -artifact_prefix="$work/" ${words:+"-dict=$words"} "$work/$target" "native/fuzz/corpus/$target" 2>"$work/$target.log" ||
      { tail -n 60 "$work/$target.log"; return 1; }
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log") inputs"
  done
}

# Everything is compiled; what needs no ONNX Runtime, of which there is none for this processor here, is run. Death tests
# start their program again, which they cannot under an emulator.
native_aarch64() {
  native_build aarch64
  (unset ALLROUNDER_TEST_BUNDLE ALLROUNDER_ORT_LIBRARY ALLROUNDER_OPENVINO_LIBRARY && native_test aarch64 -E LibraryDeath)
  ALLROUNDER_NATIVE_BUILD=build/native/aarch64 ALLROUNDER_NATIVE_EMULATOR="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
    pytest tests/native/test_text_parity.py tests/native/test_gather_declaration.py -k "not every_code_point"
}

# The op alone, compiled for GPUs, with its tests that need none; there is no GPU here.
native_accelerators() {
  local folder core="" preset=cuda folders=(gather ort_ops)
  if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi
  if ! command -v nvcc >/dev/null; then
    echo "NOT COMPILED: this machine has no nvcc"
    return
  fi
  nvcc --version | tail -n 1
  if [ -n "${TENSORRT_ROOT:-}" ]; then
    preset=tensorrt folders+=(tensorrt) core=allrounder_core # with the runtime's TensorRT backend
  else
    echo "the TensorRT plugin and the runtime's TensorRT backend are NOT COMPILED: TENSORRT_ROOT names no headers"
  fi
  folders=("${folders[@]/#/tests/}")
  native_build "$preset" "${folders[@]/%//all}" ${core:+"$core"} # ninja's name for all targets of a folder
  for folder in "${folders[@]}"; do
    native_test "$preset/$folder"
  done
}

# The wheel that users build, in an environment that has nothing else.
native_wheel() {
  ALLROUNDER_NATIVE=1 pip wheel -q --no-deps -w "$work/native" .
  python3 -m venv "$work/native-venv"
  "$work/native-venv/bin/pip" install -q "$work"/native/*-py3-none-linux_*.whl
  (cd / && env -u ALLROUNDER_ORT_LIBRARY "$work/native-venv/bin/python" "$OLDPWD/native/tests/package/use_wheel.py" "$ALLROUNDER_TEST_BUNDLE")
}
