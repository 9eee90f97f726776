// SPDX-License-Identifier: Apache-2.0
#include "tests/support/communicator_conformance.hpp"
#include "tests/support/mpi_main.hpp"

namespace demist {
namespace {

TEST(MpiCommunicator, Conforms) { test::conforms(*make_mpi_communicator(test::world())); }

// Low limits: sums take many passes, gathers and broadcasts many messages.
TEST(MpiCommunicator, ConformsWhenMessagesAreCut) {
  test::conforms(
      *make_mpi_communicator(test::world(), {.staging_bytes = 100000, .message_bytes = 30000}));
}

TEST(MpiCommunicator, OtherTrafficOnTheSameCommDoesNotMix) {
  const mpi::Comm& world = test::world();
  const auto comm = make_mpi_communicator(world);
  const int next = (world.rank() + 1) % world.size();
  world.send("note", next, 1);
  test::sums_floats_in_rank_order(*comm);
  EXPECT_EQ(world.receive(mpi::Comm::any_source, 1).second, "note");
}

TEST(ParallelGroups, FormATensorByDataGrid) {
  const mpi::Comm& world = test::world();
  for (int tensor_size = 1; tensor_size <= world.size(); ++tensor_size) {
    if (world.size() % tensor_size != 0) continue;
    const ParallelGroups groups = make_parallel_groups(world, tensor_size, make_host_communicator);
    const ParallelLayout& at = groups.layout;
    EXPECT_EQ(at.data_rank * at.tensor_size + at.tensor_rank, world.rank());
    EXPECT_EQ(groups.tensor->size(), tensor_size);
    EXPECT_EQ(groups.tensor->rank(), at.tensor_rank);
    EXPECT_EQ(groups.data->size(), world.size() / tensor_size);
    EXPECT_EQ(groups.data->rank(), at.data_rank);
    EXPECT_EQ(groups.world->rank(), world.rank());
    test::conforms(*groups.tensor);
    test::conforms(*groups.data);
    // The tensor group of this rank is {data_rank * T + t}.
    std::vector<std::int64_t> sum{world.rank()};
    groups.tensor->all_reduce_sum(sum);
    EXPECT_EQ(sum[0],
              tensor_size * (at.data_rank * tensor_size) + tensor_size * (tensor_size - 1) / 2);
  }
}

TEST(ParallelGroups, RefuseASizeThatDoesNotDivide) {
  EXPECT_THROW(
      make_parallel_groups(test::world(), test::world().size() + 1, make_host_communicator),
      ConfigError);
  EXPECT_THROW(make_parallel_groups(test::world(), 0, make_host_communicator), ConfigError);
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) { return demist::test::run_mpi_tests(argc, argv); }
