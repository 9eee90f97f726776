// What a rank computes on: a backend, and the communicators that carry its tensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "core/mpi.hpp"
#include "kernels/backend.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

struct Device {
  std::unique_ptr<Backend> backend;
  // Collective over the given ranks: a communicator for the backend's memory, which it must not
  // outlive.
  CommunicatorFactory communicator_over;
};

// `isa` as in make_cpu_backend.
Device make_cpu_device(const std::string& isa = "");

enum class DeviceKind { automatic, cpu, cuda };
// Collective over world. automatic: CUDA where every rank has a GPU that its driver lets it use,
// and the build its CUDA part; throws EnvironmentError where only some have.
Device make_device(DeviceKind kind, const mpi::Comm& world);

// Collective over world: one GPU a rank. The CUDA part lies in a library of its own beside the
// program, which is loaded here: the vendor's libraries cost a quarter of a second and 200 MB that
// a run on CPUs need not pay. Throws EnvironmentError when there is none or a GPU would be shared,
// ConfigError when the build cannot use one.
Device load_cuda_device(const mpi::Comm& world);

}  // namespace demist
