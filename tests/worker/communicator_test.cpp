// SPDX-License-Identifier: Apache-2.0
#include "tests/support/communicator_conformance.hpp"

namespace demist {
namespace {

TEST(LocalCommunicator, Conforms) { test::conforms(*make_local_communicator()); }

TEST(LocalCommunicator, KeepsTheBitsOfOneRank) {
  std::vector<float> values{-0.0f, std::numeric_limits<float>::denorm_min()};
  make_local_communicator()->all_reduce_sum(values);
  EXPECT_TRUE(std::signbit(values[0]));
  EXPECT_EQ(values[1], std::numeric_limits<float>::denorm_min());
}

}  // namespace
}  // namespace demist
