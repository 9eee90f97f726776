// Tensors in GPU memory travel by NCCL.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "core/mpi.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

// Collective over comm; spans given to the communicator are memory of `backend`, which must outlive
// it. Every operation is queued on the backend's stream, between detach() and join() on another,
// and returns at once, except barrier(). `staging_bytes` of device memory hold the received terms
// of a sum.
std::unique_ptr<Communicator> make_nccl_communicator(const mpi::Comm& comm,
                                                     cuda::CudaBackend& backend,
                                                     std::size_t staging_bytes = std::size_t{16}
                                                                                 << 20);

}  // namespace demist
