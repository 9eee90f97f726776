# CUDA is optional: with nvcc, kernels/cuda is compiled for the device, and for the emulated device
# of the tests. DEMIST_CUDA_FOUND tells the rest of the build.
set(DEMIST_CUDA AUTO CACHE STRING "CUDA kernels: AUTO (when nvcc is found), ON or OFF")
set_property(CACHE DEMIST_CUDA PROPERTY STRINGS AUTO ON OFF)
set(DEMIST_CUDA_FOUND FALSE)
if(DEMIST_CUDA)  # AUTO counts as true
  # sm_80: A100. sm_90: H100, H200. PTX for whatever comes later.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit 12.4 REQUIRED)
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
    if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
      set(DEMIST_CUDA_FOUND TRUE)
    elseif(NOT DEMIST_CUDA STREQUAL "AUTO")
      message(FATAL_ERROR "DEMIST_CUDA=ON, but no NCCL: install it, or set NCCL_INCLUDE_DIR and NCCL_LIBRARY")
    endif()
  elseif(NOT DEMIST_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "DEMIST_CUDA=ON, but no nvcc: install the CUDA toolkit (12.4 or newer), or put nvcc on PATH")
  endif()
endif()

# cuDNN's attention needs the headers of its frontend (MIT; PyPI: nvidia-cudnn-frontend), which no
# toolkit brings. Without them kernels/cuda/attention_cudnn_absent.cpp is compiled.
set(DEMIST_CUDNN_FRONTEND "" CACHE PATH "Folder that holds cudnn_frontend.h, for attention by cuDNN")
set(DEMIST_CUDNN_FOUND FALSE)
if(DEMIST_CUDA_FOUND)
  find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${DEMIST_CUDNN_FRONTEND}
            ${DEMIST_CUDNN_FRONTEND}/include ${CUDAToolkit_INCLUDE_DIRS})
  find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(CUDNN_FRONTEND_INCLUDE_DIR AND CUDNN_INCLUDE_DIR AND CUDNN_LIBRARY)
    set(DEMIST_CUDNN_FOUND TRUE)
  elseif(DEMIST_CUDNN_FRONTEND)
    message(FATAL_ERROR "DEMIST_CUDNN_FRONTEND=${DEMIST_CUDNN_FRONTEND}: cudnn_frontend.h is not there, or cuDNN 9 "
                        "(cudnn.h, libcudnn.so) is missing: set CUDNN_INCLUDE_DIR and CUDNN_LIBRARY")
  endif()
endif()

if(DEMIST_CUDA_FOUND)
  # CMake 3.25 does not know nvcc's name for C++20.
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  add_library(demist_cuda_options INTERFACE)
  target_include_directories(demist_cuda_options SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  # No fast math: its division, square root and denormals would need tolerances of their own. ptxas
  # fails on a kernel that spills registers. 554: a conversion of a type to itself, in a template.
  target_compile_options(
    demist_cuda_options
    INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-lineinfo;--expt-relaxed-constexpr;-Werror=all-warnings;--diag-suppress=554>"
              "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills,-Werror;-Xcompiler=-Wall,-Wextra>")
endif()
