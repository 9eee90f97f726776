// SPDX-License-Identifier: Apache-2.0
#include "core/error.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {
namespace {

std::unique_ptr<Communicator> communicator_over(const mpi::Comm& comm) {
  return comm.size() == 1 ? make_local_communicator() : make_mpi_communicator(comm);
}

}  // namespace

ParallelGroups make_parallel_groups(const mpi::Comm& world, int tensor_size) {
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
  groups.tensor = communicator_over(world.split(at.data_rank, at.tensor_rank));
  groups.data = communicator_over(world.split(at.tensor_rank, at.data_rank));
  groups.world = communicator_over(world);
  return groups;
}

}  // namespace demist
