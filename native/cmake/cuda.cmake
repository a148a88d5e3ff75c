# What every CUDA source of ours is compiled with.
#
# Machine code for the data-centre generations, and PTX of the newest of them, from which the driver makes code for
# what comes later. sm_80 serves 8.6 to 8.9 too.
set(ALLROUNDER_CUDA_ARCHITECTURES "80-real;90-real;100" CACHE STRING "Architectures of the CUDA kernel")
set(CMAKE_CUDA_ARCHITECTURES ${ALLROUNDER_CUDA_ARCHITECTURES}) # before the language: its own default is too old for nvcc 13
set(CMAKE_CUDA_RUNTIME_LIBRARY Static) # no libcudart to find at load: the libraries load on machines without CUDA
set(CMAKE_CUDA_STANDARD 17)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

set(cuda_warnings -Wall,-Wextra,-Wshadow) # no -Wpedantic: nvcc's generated code has line directives of its own
set(cuda_errors "")
if(ALLROUNDER_WERROR)
  string(APPEND cuda_warnings ",-Werror")
  set(cuda_errors "-Werror all-warnings")
endif()
target_compile_options(allrounder_settings INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=-fvisibility=hidden,${cuda_warnings};SHELL:${cuda_errors}>")
