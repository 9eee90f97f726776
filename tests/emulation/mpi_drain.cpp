// The emulated device works only while its process is in a CUDA call; a real one goes on while the
// host waits in MPI, and its peers count on that. So before a blocking call of MPI (the profiling
// interface lets us in) the device finishes what was queued. Part of test programs, not a library:
// it must come before libmpi.
// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>

#include "tests/emulation/streams.hpp"

namespace {

// A fault shows at the next CUDA call, as it would on a device.
void drain() {
  auto lock = demist::emu::lock_device();
  demist::emu::run_all(lock);
}

// Who asks again and again whether a message has come lets the device go on, too.
void nudge() {
  auto lock = demist::emu::lock_device();
  demist::emu::run_some(lock);
}

}  // namespace

extern "C" {

int MPI_Iprobe(int source, int tag, MPI_Comm comm, int* flag, MPI_Status* status) {
  nudge();
  return PMPI_Iprobe(source, tag, comm, flag, status);
}

int MPI_Allreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op op,
                  MPI_Comm comm) {
  drain();
  return PMPI_Allreduce(from, to, count, type, op, comm);
}
int MPI_Bcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm) {
  drain();
  return PMPI_Bcast(data, count, type, root, comm);
}
int MPI_Barrier(MPI_Comm comm) {
  drain();
  return PMPI_Barrier(comm);
}
int MPI_Gather(const void* from, int count, MPI_Datatype type, void* to, int to_count,
               MPI_Datatype to_type, int root, MPI_Comm comm) {
  drain();
  return PMPI_Gather(from, count, type, to, to_count, to_type, root, comm);
}
int MPI_Waitall(int count, MPI_Request* requests, MPI_Status* statuses) {
  drain();
  return PMPI_Waitall(count, requests, statuses);
}

}  // extern "C"
