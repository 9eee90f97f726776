// SPDX-License-Identifier: Apache-2.0
#include "worker/parallel/cuda_device.hpp"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "worker/cuda_driver.hpp"
#include "worker/parallel/nccl_communicator.hpp"

namespace demist {
namespace {

// Makes one of this node's devices the current one; returns what names it in the whole world.
std::string take_device(int rank_on_node) {
  int count = 0;
  cuda::check(cudaGetDeviceCount(&count), "devices");
  if (count == 0) throw EnvironmentError("no CUDA device is visible; see nvidia-smi");
  const int device = rank_on_node % count;
  cuda::check(cudaSetDevice(device), "choose a device");
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device), "device properties");
  if (properties.major < kLeastComputeCapability)
    throw EnvironmentError(properties.name + too_old(properties.major, properties.minor) +
                           "set parallel.device: CPU, or CUDA_VISIBLE_DEVICES");
  return {properties.uuid.bytes, sizeof properties.uuid.bytes};
}

}  // namespace

Device make_cuda_device(const mpi::Comm& world) {
  // Sums over tensor and data groups may be under way at once (Communicator::detach): kernels of
  // several communicators must start in the order of the host's calls, or ranks could wait for each
  // other in a circle. NCCL reads it when it starts.
  ::setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
  const mpi::Comm node = world.split_node();
  std::string uuid;
  mpi::together(world, "choose a GPU", [&] { uuid = take_device(node.rank()); });
  const std::vector<std::string> uuids = node.gather(uuid, 0);
  mpi::together(world, "choose a GPU", [&] {
    for (std::size_t i = 0; i < uuids.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (uuids[i] == uuids[j])
          throw EnvironmentError("ranks " + std::to_string(j) + " and " + std::to_string(i) +
                                 " of this node have the same GPU; start as many ranks a node as "
                                 "it has GPUs");
  });
  Device device;
  mpi::together(world, "start CUDA",
                [&] { device.backend = std::make_unique<cuda::CudaBackend>(); });
  auto& backend = static_cast<cuda::CudaBackend&>(*device.backend);
  backend.watched_by(world.heartbeat());
  device.communicator_over = [&backend](const mpi::Comm& comm) {
    return comm.size() == 1 ? make_local_communicator() : make_nccl_communicator(comm, backend);
  };
  return device;
}

}  // namespace demist

void demist_make_cuda_device(const demist::mpi::Comm* world, demist::Device* device) {
  *device = demist::make_cuda_device(*world);
}
