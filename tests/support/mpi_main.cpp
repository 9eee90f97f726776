// main of the MPI tests: gtest on every rank; failures print with their rank; the exit code is the
// worst of all ranks.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/mpi_main.hpp"

#include <gtest/gtest.h>

#include <cstdio>

namespace demist::test {
namespace {

const mpi::Session* session = nullptr;
const mpi::Comm* alone = nullptr;

class RankPrinter : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      std::fprintf(stderr, "[rank %d] %s:%d: %s\n", world().rank(),
                   result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                   result.summary());
  }
};

}  // namespace

const mpi::Comm& world() { return session->world(); }
const mpi::Comm& self() { return *alone; }

int run_mpi_tests(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const mpi::Session scope(&argc, &argv);
  session = &scope;
  const mpi::Comm own = scope.world().split(scope.world().rank(), 0);
  alone = &own;
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world().rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new RankPrinter);
  const int result = RUN_ALL_TESTS();
  return static_cast<int>(world().all_reduce_max(result));
}

}  // namespace demist::test
