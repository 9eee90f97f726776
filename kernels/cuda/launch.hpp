// Starts kernels, and turns what the CUDA runtime reports into errors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <source_location>
#include <string>
#include <type_traits>

#include "core/error.hpp"

#ifdef DEMIST_EMULATED
#include "tests/emulation/emulator.hpp"
#endif

namespace demist::cuda {

inline std::string place_of(const std::source_location& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

// A grid's size, with the place of the launch for error messages.
struct Grid {
  // NOLINTNEXTLINE(google-explicit-constructor): launch(kernel, rows, ...) reads well.
  template <class T>
  requires std::is_convertible_v<T, dim3> Grid(
      T size_, std::source_location where_ = std::source_location::current())
      : size(size_), where(where_) {}
  dim3 size;
  std::source_location where;
};

// Bytes of shared memory that a block may have: 163 KiB on an A100, 227 on an H100, 99 on the
// GPUs between and after them, too few for fused attention with a head_dim of 128.
inline std::size_t shared_limit() {
  int device = 0, bytes = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                            device) == cudaSuccess;
  return known ? static_cast<std::size_t>(bytes) : 0;
}

// launch(kernel, grid, block, shared_bytes, stream, arguments...). Throws when the device refuses
// the launch; what goes wrong inside the kernel shows at a later synchronization.
template <class... P>
void launch(void (*kernel)(P...), Grid grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, std::type_identity_t<P>... args) {
  cudaError_t error = cudaSuccess;
#ifdef DEMIST_EMULATED
  error =
      emu::launch({grid.size, block, shared_bytes, grid.where}, stream, [=] { kernel(args...); });
#else
  constexpr std::size_t kWithoutAsking = 48 * 1024;
  if (shared_bytes > kWithoutAsking)
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid.size;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    error = cudaLaunchKernelEx(&config, kernel, args...);
  }
#endif
  if (error == cudaErrorInvalidValue && shared_bytes > shared_limit())
    throw EnvironmentError("kernel launch at " + place_of(grid.where) + ": needs " +
                           std::to_string(shared_bytes) +
                           " bytes of shared memory a block, this "
                           "device has " +
                           std::to_string(shared_limit()) + "; set parallel.attention: UNFUSED");
  if (error != cudaSuccess)
    throw EnvironmentError("kernel launch at " + place_of(grid.where) + ": " +
                           cudaGetErrorString(error) +
                           "; nvidia-smi shows the state of the device");
}

}  // namespace demist::cuda
