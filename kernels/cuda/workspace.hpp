// Where an operation's kernels run, and the memory they may use between themselves.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "core/error.hpp"

namespace demist::cuda {

struct Launch {
  cudaStream_t stream = nullptr;
  void* workspace =
      nullptr;  // device memory, 16-byte aligned; free again when the op's kernels end
  std::size_t workspace_bytes = 0;

  // The workspace as `count` elements of T.
  template <class T>
  T* scratch(std::int64_t count) const {
    ensure(static_cast<std::size_t>(count) * sizeof(T) <= workspace_bytes,
           "CUDA workspace is smaller than the operation said it needs");
    return static_cast<T*>(workspace);
  }
};

}  // namespace demist::cuda
