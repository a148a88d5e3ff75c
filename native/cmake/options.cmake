# Options, what they need, and the settings that every target shares.
option(ALLROUNDER_TESTS "Build the tests (needs GoogleTest)" ${PROJECT_IS_TOP_LEVEL})
option(ALLROUNDER_REQUIRE_ORT "Fail where ONNX Runtime's headers are missing, instead of building without it" OFF)
option(ALLROUNDER_CUDA "Build the CUDA kernel (needs nvcc)" OFF)
option(ALLROUNDER_TENSORRT "Build the TensorRT backend and plugin (needs ALLROUNDER_CUDA and TENSORRT_ROOT)" OFF)
option(ALLROUNDER_FUZZ "Build the fuzz targets (needs clang)" OFF)
option(ALLROUNDER_WERROR "Warnings are errors" ${PROJECT_IS_TOP_LEVEL})
set(ALLROUNDER_SANITIZE "" CACHE STRING "Sanitizers, for example address,undefined or thread")
set(ALLROUNDER_GOOGLETEST "" CACHE PATH "GoogleTest's source, to be built along; default: the installed library")
set(ORT_ROOT "$ENV{ORT_ROOT}" CACHE PATH "Folder with ONNX Runtime's headers below include/ or include/onnxruntime/")
set(OPENVINO_ROOT "$ENV{OPENVINO_ROOT}" CACHE PATH "For tests alone: folder with OpenVINO's headers below include/")
set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}" CACHE PATH "Folder with TensorRT's headers below include/")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_package(Threads REQUIRED)
find_package(nlohmann_json 3.10 QUIET) # 3.10: Debian 12 has 3.11; JSON comes from nowhere else
if(NOT nlohmann_json_FOUND)
  message(FATAL_ERROR "nlohmann/json 3.10 or newer was not found: install it (Debian: nlohmann-json3-dev)")
endif()

find_path(ORT_INCLUDE_DIR onnxruntime_c_api.h HINTS ${ORT_ROOT} PATH_SUFFIXES include include/onnxruntime)
if(ORT_INCLUDE_DIR)
  set(ALLROUNDER_ONNXRUNTIME ON)
elseif(ALLROUNDER_REQUIRE_ORT)
  message(FATAL_ERROR "ONNX Runtime's headers (onnxruntime_c_api.h) were not found: name their folder by "
    "-DORT_ROOT=DIR, or by ORT_ROOT in the environment; native/README.md says where to get them")
else()
  set(ALLROUNDER_ONNXRUNTIME OFF)
  message(WARNING "ONNX Runtime's headers were not found: building without its backend and its gather op (-DORT_ROOT=DIR)")
endif()

if(ALLROUNDER_TENSORRT)
  if(NOT ALLROUNDER_CUDA)
    message(FATAL_ERROR "ALLROUNDER_TENSORRT needs ALLROUNDER_CUDA=ON")
  endif()
  find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS ${TENSORRT_ROOT} PATH_SUFFIXES include)
  if(NOT TENSORRT_INCLUDE_DIR)
    message(FATAL_ERROR "TensorRT's headers (NvInferRuntime.h) were not found: give -DTENSORRT_ROOT=DIR (see native/README.md)")
  endif()
endif()

# What every target of ours is compiled with.
add_library(allrounder_settings INTERFACE)
target_compile_features(allrounder_settings INTERFACE cxx_std_17)
set(warnings -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
if(ALLROUNDER_WERROR)
  list(APPEND warnings -Werror)
endif()
target_compile_options(allrounder_settings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${warnings}>" "$<$<COMPILE_LANGUAGE:CXX>:-fvisibility=hidden>")
if(ALLROUNDER_SANITIZE)
  target_compile_options(allrounder_settings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${ALLROUNDER_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all;-g1>")
  target_link_options(allrounder_settings INTERFACE -fsanitize=${ALLROUNDER_SANITIZE})
endif()

# allrounder_exports(target script): a library that exports what the linker script names, and leaves nothing undefined.
# Hidden visibility alone lets instantiations of std:: leak.
function(allrounder_exports target script)
  target_link_options(${target} PRIVATE LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/${script} LINKER:--exclude-libs,ALL)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${script})
  if(NOT ALLROUNDER_SANITIZE) # a sanitizer's library is linked to the program, not to what it loads
    target_link_options(${target} PRIVATE LINKER:--no-undefined)
  endif()
endfunction()

message(STATUS "allrounder ${PROJECT_VERSION}: onnxruntime=${ALLROUNDER_ONNXRUNTIME} cuda=${ALLROUNDER_CUDA} "
  "tensorrt=${ALLROUNDER_TENSORRT} tests=${ALLROUNDER_TESTS} fuzz=${ALLROUNDER_FUZZ} sanitize=${ALLROUNDER_SANITIZE}")
