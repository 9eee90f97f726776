// SPDX-License-Identifier: Apache-2.0
#include "core/error.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

std::unique_ptr<Communicator> make_host_communicator(const mpi::Comm& comm) {
  return comm.size() == 1 ? make_local_communicator() : make_mpi_communicator(comm);
}

ParallelGroups make_parallel_groups(const mpi::Comm& world, int tensor_size,
                                    const CommunicatorFactory& tensors_over) {
  if (tensor_size < 1 || world.size() % tensor_size != 0)
    throw ConfigError("tensor_parallel " + std::to_string(tensor_size) + " does not divide " +
                      std::to_string(world.size()) +
                      " ranks; choose a divisor or start another number of ranks");
  ParallelGroups groups;
  groups.layout = {.tensor_size = tensor_size,
                   .tensor_rank = world.rank() % tensor_size,
                   .data_size = world.size() / tensor_size,
                   .data_rank = world.rank() / tensor_size};
  const ParallelLayout& at = groups.layout;
  groups.tensor = tensors_over(world.split(at.data_rank, at.tensor_rank));
  groups.data = tensors_over(world.split(at.tensor_rank, at.data_rank));
  groups.world = make_host_communicator(world);
  return groups;
}

}  // namespace demist
