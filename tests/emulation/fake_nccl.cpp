// The part of NCCL that the product calls, with its C interface, over MPI. The process that makes a
// unique id must be one of its ranks.
// SPDX-License-Identifier: Apache-2.0
#include <nccl.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "tests/emulation/device_memory.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/nccl_communicator.hpp"
#include "tests/emulation/nccl_faults.hpp"
#include "tests/emulation/nccl_operation.hpp"
#include "tests/emulation/streams.hpp"

using demist::emu::Communicator;
using demist::emu::Kind;
using demist::emu::Lock;
using demist::emu::lock_device;
using demist::emu::Progress;
using demist::emu::run_all;
using demist::emu::Transfer;

struct ncclComm {
  std::shared_ptr<Communicator> communicator;
};

namespace {

std::string last_text;

ncclResult_t refuse(ncclResult_t error, const std::string& why) {
  last_text = why;
  std::fprintf(stderr, "emulated NCCL: %s: %s\n", ncclGetErrorString(error), why.c_str());
  return error;
}

std::set<ncclComm_t>& living() {
  static std::set<ncclComm_t> instance;
  return instance;
}

struct Group {
  int depth = 0;
  cudaStream_t stream = nullptr;
  std::vector<Transfer> transfers;
  ncclResult_t error = ncclSuccess;
};
thread_local Group group;

// Polls `finished` with the lock released in between.
template <class F>
bool wait_until(Lock& lock, F finished) {
  const auto start = std::chrono::steady_clock::now();
  const std::chrono::duration<double> limit(demist::emu::options().patience_s);
  while (!finished()) {
    if (std::chrono::steady_clock::now() - start > limit) return false;
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    lock.lock();
  }
  return true;
}

ncclResult_t hand_out(Lock& lock, ncclComm_t* comm, std::shared_ptr<Communicator> communicator) {
  living().insert(*comm = new ncclComm{std::move(communicator)});
  Communicator& own = *(*comm)->communicator;
  if (!own.blocking()) return own.state() == ncclSuccess ? ncclSuccess : ncclInProgress;
  if (!wait_until(lock, [&] { return own.advance() != ncclInProgress; })) {
    own.fail(ncclSystemError);
    return refuse(ncclSystemError, "the other ranks of a new communicator did not come");
  }
  return own.state();
}

ncclResult_t check(ncclComm_t comm) {
  if (!living().contains(comm))
    return refuse(ncclInvalidArgument, "the communicator does not exist, or no longer");
  const Communicator& own = *comm->communicator;
  if (own.aborted()) return refuse(ncclInvalidUsage, "the communicator was aborted");
  if (own.state() == ncclInProgress || own.poll_due())
    return refuse(ncclInvalidUsage,
                  "poll ncclCommGetAsyncError until it is no longer ncclInProgress");
  return own.state();
}

ncclResult_t check_config(const ncclConfig_t* config, bool& blocking) {
  if (config == nullptr) return ncclSuccess;
  if (config->magic != 0xcafebeef || config->size != sizeof(ncclConfig_t))
    return refuse(ncclInvalidArgument, "the config was not made by NCCL_CONFIG_INITIALIZER");
  if (config->blocking != NCCL_CONFIG_UNDEF_INT) blocking = config->blocking != 0;
  return ncclSuccess;
}

// Queues the transfers as one piece of work: they go on side by side.
ncclResult_t enqueue(Lock& lock, cudaStream_t stream, std::vector<Transfer> transfers) {
  auto all = std::make_shared<std::vector<Transfer>>(std::move(transfers));
  demist::emu::Work work;
  work.run = [all] {
    bool finished = true;
    for (Transfer& transfer : *all) finished = transfer.advance() && finished;
    return finished ? Progress::done : Progress::waits_for_peer;
  };
  work.describe = [all] {
    std::string text;
    for (const Transfer& transfer : *all) text += transfer.describe();
    return text;
  };
  if (demist::emu::enqueue(lock, stream, std::move(work)) != cudaSuccess)
    return refuse(ncclUnhandledCudaError, "the stream does not take work");
  // With a seed, non-blocking communicators show that they may be slow.
  ncclResult_t result = ncclSuccess;
  for (const Transfer& transfer : *all)
    if (!transfer.communicator->blocking() && demist::emu::options().seed % 2 == 1) {
      transfer.communicator->demand_poll();
      result = ncclInProgress;
    }
  return result;
}

ncclResult_t submit(Lock& lock, Transfer transfer, cudaStream_t stream) {
  if (const std::string why = transfer.objection(); !why.empty()) {
    if (group.depth > 0) group.error = ncclInvalidArgument;
    return refuse(ncclInvalidArgument, why);
  }
  transfer.take_number();
  ++demist::emu::nccl_calls(transfer.header.kind);
  if (group.depth == 0) {
    std::vector<Transfer> alone;
    alone.push_back(std::move(transfer));
    return enqueue(lock, stream, std::move(alone));
  }
  if (!group.transfers.empty() && group.stream != stream)
    return group.error = refuse(ncclInvalidUsage, "a group on several streams is not imitated");
  group.stream = stream;
  group.transfers.push_back(std::move(transfer));
  return ncclSuccess;
}

struct Call {
  Kind kind;
  const void* from;
  void* to;
  std::size_t count;
  ncclDataType_t type;
  ncclRedOp_t operation = ncclSum;
  int root = 0;
};

ncclResult_t collective(const Call& call, ncclComm_t comm, cudaStream_t stream) {
  Lock lock = lock_device();
  if (const ncclResult_t error = check(comm); error != ncclSuccess) return error;
  const auto& own = comm->communicator;
  if (call.root < 0 || call.root >= own->size()) return refuse(ncclInvalidArgument, "no such root");
  Transfer transfer;
  transfer.communicator = own;
  transfer.from = static_cast<const char*>(call.from);
  transfer.to = static_cast<char*>(call.to);
  transfer.header = {.communicator = own->id(),
                     .kind = call.kind,
                     .type = static_cast<std::uint32_t>(call.type),
                     .operation = static_cast<std::uint32_t>(call.operation),
                     .root = call.root,
                     .count = call.count};
  return submit(lock, std::move(transfer), stream);
}

ncclResult_t point_to_point(Transfer::Role role, const Call& call, ncclComm_t comm,
                            cudaStream_t stream) {
  Lock lock = lock_device();
  if (const ncclResult_t error = check(comm); error != ncclSuccess) return error;
  const auto& own = comm->communicator;
  if (call.root < 0 || call.root >= own->size()) return refuse(ncclInvalidArgument, "no such peer");
  Transfer transfer;
  transfer.communicator = own;
  transfer.role = role;
  transfer.from = static_cast<const char*>(call.from);
  transfer.to = static_cast<char*>(call.to);
  transfer.header = {.communicator = own->id(),
                     .kind = Kind::point_to_point,
                     .type = static_cast<std::uint32_t>(call.type),
                     .root = call.root,
                     .count = call.count};
  return submit(lock, std::move(transfer), stream);
}

// MPI may be called by its main thread only; a watchdog's finds what that one has left.
bool may_use_mpi() {
  int main_thread = 0;
  MPI_Is_thread_main(&main_thread);
  return main_thread != 0;
}

ncclResult_t forget(ncclComm_t comm) {
  living().erase(comm);
  delete comm;
  return ncclSuccess;
}

}  // namespace

namespace demist::emu {

NcclFaults& nccl_faults() {
  static NcclFaults instance;
  return instance;
}

std::int64_t& nccl_calls(Kind kind) {
  static std::map<Kind, std::int64_t> instance;
  return instance[kind];
}

std::size_t living_communicators() {
  const Lock lock = lock_device();
  return living().size();
}

}  // namespace demist::emu

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}
const char* ncclGetLastError(ncclComm_t) { return last_text.c_str(); }
ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const Lock lock = lock_device();
  *id = Communicator::make_id();
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  Lock lock = lock_device();
  bool blocking = true;
  if (const ncclResult_t error = check_config(config, blocking); error != ncclSuccess) return error;
  if (group.depth > 0) return refuse(ncclInvalidUsage, "initialization in a group is not imitated");
  if (size < 1 || rank < 0 || rank >= size)
    return refuse(ncclInvalidArgument, "rank or size out of range");
  if (const ncclResult_t fault = demist::emu::nccl_faults().refuse_start; fault != ncclSuccess)
    return refuse(fault, "as the test wants it");
  return hand_out(lock, comm, std::make_shared<Communicator>(id, rank, size, blocking));
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, size, id, rank, nullptr);
}
ncclResult_t ncclCommSplit(ncclComm_t parent, int color, int key, ncclComm_t* comm,
                           ncclConfig_t* config) {
  Lock lock = lock_device();
  *comm = nullptr;
  if (const ncclResult_t error = check(parent); error != ncclSuccess) return error;
  bool blocking = parent->communicator->blocking();
  if (const ncclResult_t error = check_config(config, blocking); error != ncclSuccess) return error;
  if (color < 0 && color != NCCL_SPLIT_NOCOLOR)
    return refuse(ncclInvalidArgument, "a color is negative");
  auto part = std::make_shared<Communicator>(parent->communicator, color, key, blocking);
  return color == NCCL_SPLIT_NOCOLOR ? ncclSuccess : hand_out(lock, comm, std::move(part));
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const Lock lock = lock_device();
  if (!living().contains(comm))
    return refuse(ncclInvalidArgument, "the communicator does not exist, or no longer");
  Communicator& own = *comm->communicator;
  const ncclResult_t broken = demist::emu::nccl_faults().broken;
  if (!may_use_mpi() || broken != ncclSuccess) {
    *error = broken != ncclSuccess ? broken : own.state();
    return ncclSuccess;
  }
  *error = own.poll_due() ? ncclInProgress : own.advance();
  own.poll();
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  Lock lock = lock_device();
  if (const ncclResult_t error = check(comm); error != ncclSuccess) return error;
  if (run_all(lock) != cudaSuccess) return ncclUnhandledCudaError;
  if (comm->communicator->blocking()) return ncclSuccess;
  comm->communicator->demand_poll();
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  Lock lock = lock_device();
  if (const ncclResult_t error = check(comm); error != ncclSuccess) return error;
  if (run_all(lock) != cudaSuccess) return ncclUnhandledCudaError;
  if (!wait_until(lock, [&] { return comm->communicator->all_sent(); }))
    return refuse(ncclRemoteError, "another rank did not take part in the last operation");
  return forget(comm);
}
// No MPI here: a watchdog's thread may call it.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const Lock lock = lock_device();
  if (!living().contains(comm))
    return refuse(ncclInvalidArgument, "the communicator does not exist, or no longer");
  comm->communicator->abort();
  // Its messages may still be on their way, and MPI may be gone when this program ends.
  static auto& aborted = *new std::vector<std::shared_ptr<Communicator>>;
  aborted.push_back(comm->communicator);
  forget(comm);
  std::fprintf(stderr, "emulated NCCL: aborted a communicator, %zu left\n", living().size());
  return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  const Lock lock = lock_device();
  const ncclResult_t error = check(comm);
  if (error == ncclSuccess) *count = comm->communicator->size();
  return error;
}
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  const Lock lock = lock_device();
  const ncclResult_t error = check(comm);
  if (error == ncclSuccess) *rank = comm->communicator->rank();
  return error;
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd without a start");
  if (--group.depth > 0) return ncclSuccess;
  Group ended = std::exchange(group, {});
  if (ended.error != ncclSuccess) return ended.error;
  if (ended.transfers.empty()) return ncclSuccess;
  Lock lock = lock_device();
  return enqueue(lock, ended.stream, std::move(ended.transfers));
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return collective({Kind::all_reduce, from, to, count, type, operation}, comm, stream);
}
ncclResult_t ncclReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                        ncclRedOp_t operation, int root, ncclComm_t comm, cudaStream_t stream) {
  return collective({Kind::reduce, from, to, count, type, operation, root}, comm, stream);
}
ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  return collective({Kind::reduce_scatter, from, to, count, type, operation}, comm, stream);
}
ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective({Kind::all_gather, from, to, count, type}, comm, stream);
}
ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return collective({Kind::broadcast, from, to, count, type, ncclSum, root}, comm, stream);
}
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
ncclResult_t ncclAlltoAll(const void* from, void* to, std::size_t count, ncclDataType_t type,
                          ncclComm_t comm, cudaStream_t stream) {
  return collective({Kind::all_to_all, from, to, count, type}, comm, stream);
}
#endif
ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return point_to_point(Transfer::Role::sender,
                        {Kind::point_to_point, from, nullptr, count, type, ncclSum, peer}, comm,
                        stream);
}
ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return point_to_point(Transfer::Role::receiver,
                        {Kind::point_to_point, nullptr, to, count, type, ncclSum, peer}, comm,
                        stream);
}

}  // extern "C"
