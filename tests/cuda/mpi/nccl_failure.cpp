// A job of ranks under watch whose last rank dies, stands still or breaks the connections while the
// device of every other one is in a collective with it. See tests/cuda/nccl_failures.py.
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "orchestrator/rank_watch.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/nccl_faults.hpp"
#include "worker/parallel/cuda_device.hpp"

namespace demist {
namespace {

// Is not the one to blame, until all others have had their say.
[[noreturn]] void keep_beating(const mpi::Comm& comm, const std::string& run_dir) {
  int heard = 0;
  while (heard < comm.size() - 1) {
    mpi::enter(comm, Phase::forward);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    heard = 0;
    std::ifstream events(run_dir + "/events.jsonl");
    for (std::string line; std::getline(events, line);) ++heard;
  }
  std::_Exit(0);
}

void run(const mpi::Comm& world, const std::string& fault, const std::string& run_dir) {
  Patience patience;
  patience.unknown_work = fault == "stands still" ? 1 : 600;
  emu::options().patience_s = 3600;  // the device itself would wait for ever
  const RankWatch watch(world, run_dir, "test", patience);
  const mpi::Comm& comm = watch.world();
  Device device = make_cuda_device(comm);
  const ParallelGroups groups =
      make_parallel_groups(comm, comm.size() / 2, device.communicator_over);
  Buffer<float> values(1000, device.backend->memory());
  device.backend->zero(values.data(), values.bytes());
  const auto sum = [&] {
    groups.tensor->all_reduce_sum(values.span());
    groups.data->all_reduce_sum(values.span());
    float value = 0;
    device.backend->download(&value, values.data(), sizeof value);
    return value;
  };
  sum();
  mpi::enter(comm, Phase::forward);
  comm.barrier();
  if (comm.rank() == comm.size() - 1) {
    if (fault == "dies") ::raise(SIGKILL);
    if (fault == "stands still") ::pause();
    keep_beating(comm, run_dir);
  }
  if (fault == "breaks")
    std::thread([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      emu::nccl_faults().broken = ncclRemoteError;
    }).detach();
  std::printf("rank %d got %f from a collective that cannot end\n", comm.rank(),
              static_cast<double>(sum()));
}

}  // namespace
}  // namespace demist

int main(int argc, char** argv) {
  const demist::mpi::Session session(&argc, &argv);
  demist::run(session.world(), argv[1], argv[2]);
  return 0;
}
