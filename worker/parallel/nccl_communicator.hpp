// Tensors in GPU memory travel by NCCL.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>

#include "core/mpi.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "worker/parallel/communicator.hpp"
#include "worker/parallel/slices.hpp"

namespace demist {

struct NcclLimits {
  std::size_t staging_bytes = kDeviceStagingBytes;
  // To come together: hundreds of ranks on a busy file system may take a minute.
  std::chrono::milliseconds start = std::chrono::minutes(5);
};

// Collective over comm; spans given to the communicator are memory of `backend`, which must outlive
// it. Every operation is queued on the backend's stream, between detach() and join() on another,
// and returns at once, except barrier(). Ranks that do not come to the start are named in an error
// of the others (NcclLink).
std::unique_ptr<Communicator> make_nccl_communicator(const mpi::Comm& comm,
                                                     cuda::CudaBackend& backend,
                                                     const NcclLimits& limits = {});

}  // namespace demist
