// What can go wrong in NCCL, for tests of those who call it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nccl.h>

#include <atomic>
#include <cstddef>

namespace demist::emu {

// In this process, from now on.
struct NcclFaults {
  std::atomic<ncclResult_t> refuse_start = ncclSuccess;  // what ncclCommInitRankConfig returns
  std::atomic<bool> stall_start = false;                 // no start comes to an end here
  std::atomic<ncclResult_t> broken = ncclSuccess;  // the asynchronous state of all communicators
};
NcclFaults& nccl_faults();

// Not yet destroyed or aborted.
std::size_t living_communicators();

}  // namespace demist::emu
