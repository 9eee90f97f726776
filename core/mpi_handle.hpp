// The raw MPI_Comm behind mpi::Comm, for core/mpi.cpp and the MPI tensor communicator only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <string_view>

#include "core/mpi.hpp"

namespace demist::mpi {

struct Comm::Handle {
  explicit Handle(MPI_Comm raw_comm, bool owns) : raw(raw_comm), owned(owns) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle();
  MPI_Comm raw;
  bool owned;
};

// Throws EnvironmentError("<call>: <MPI's text>") unless code is MPI_SUCCESS.
void check(int code, std::string_view call);

}  // namespace demist::mpi
