// The main function of MPI tests, and their communicators.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/mpi.hpp"

namespace demist::test {

const mpi::Comm& world();
const mpi::Comm& self();  // this rank alone
int run_mpi_tests(int argc, char** argv);

}  // namespace demist::test
