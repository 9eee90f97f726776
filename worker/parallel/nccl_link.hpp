// An NCCL communicator as a handle: starts within a time limit, and can be ended from outside.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nccl.h>

#include <chrono>
#include <mutex>
#include <string>

#include "core/connections.hpp"
#include "core/mpi.hpp"

namespace demist {

// Throws EnvironmentError with NCCL's text; a peer that is gone is a failure of another rank.
void check(ncclResult_t result, const char* what);

class NcclLink final : public Connection {
 public:
  // Over the ranks of `comm`, within `limit` (Start, for what happens else). The watchdog of comm's
  // heartbeat may ask and abort it. What is queued must be over before it is destroyed.
  NcclLink(const mpi::Comm& comm, std::chrono::milliseconds limit);
  ~NcclLink() override;
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  // calls(ncclComm_t), and waits until NCCL has queued them.
  template <class Calls>
  void call(const char* what, Calls&& calls) {
    {
      const std::lock_guard lock(mutex_);
      require_open(what);
      calls(comm_);
    }
    await(what);
  }

  std::string trouble() override;
  void abort() override;

 private:
  void start(const mpi::Comm& comm);
  void require_open(const char* what) const;
  ncclResult_t state();
  void await(const char* what);

  const std::chrono::milliseconds limit_;
  Heartbeat* heartbeat_;
  // Held during calls of NCCL, which do not block. A call that does is what abort() is for: it does
  // not wait for the mutex for long.
  std::timed_mutex mutex_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace demist
