// MPI as a scope and a handle: nothing else in the project sees mpi.h but the tensor communicator.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/heartbeat.hpp"

namespace demist::mpi {

// A communicator. Counts are elements. Every failing call throws EnvironmentError with MPI's text.
// Collectives must be entered by all ranks; see agree() for phases that can fail on one rank.
class Comm {
 public:
  struct Handle;     // owns an MPI_Comm
  Comm() = default;  // a group of one that needs no MPI: its collectives do nothing, and what is
                     // made of it is such a group too
  explicit Comm(std::shared_ptr<Handle> handle, Heartbeat* heartbeat = nullptr);

  int rank() const { return rank_; }
  int size() const { return size_; }
  int rank_in_job(int rank) const;       // of a rank of this group; asks nobody
  Comm duplicate() const;                // messages on it never match messages on this one
  Comm split(int color, int key) const;  // ranks of one color, ordered by key
  Comm split_node() const;               // ranks that share this machine's memory
  // The same group; its collectives, and those of what is made of it, show in this rank's
  // heartbeat, which outlives them all.
  Comm watched_by(Heartbeat& heartbeat) const;
  Heartbeat* heartbeat() const { return heartbeat_; }  // null: nobody watches

  void barrier() const;
  void broadcast(std::span<std::byte> bytes, int root) const;
  std::string broadcast(std::string text, int root) const;
  std::vector<std::string> gather(std::string_view mine, int root) const;  // empty on other ranks
  std::int64_t all_reduce_max(std::int64_t value) const;
  std::int64_t all_reduce_sum(std::int64_t value) const;

  // Point to point, for text messages of any length. receive returns {source, text}.
  void send(std::string_view text, int to, int tag) const;
  std::pair<int, std::string> receive(int from, int tag) const;  // from = any_source for any
  bool has_message(int from, int tag) const;  // whether receive would return at once
  static constexpr int any_source = -1;

  const Handle& handle() const { return *handle_; }

 private:
  std::shared_ptr<Handle> handle_;
  Heartbeat* heartbeat_ = nullptr;
  int rank_ = 0;
  int size_ = 1;
};

// While in scope, this rank's heartbeat shows that it waits in `name` (static text): a collective,
// as a rule.
class Call {
 public:
  Call(const Comm& comm, const char* name) : Call(comm.heartbeat(), name) {}
  Call(Heartbeat* heartbeat, const char* name) : heartbeat_(heartbeat) {
    if (heartbeat_ != nullptr) heartbeat_->begin_call(name);
  }
  ~Call() {
    if (heartbeat_ != nullptr) heartbeat_->end_call();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  Heartbeat* heartbeat_;
};
// What this rank does from now on, for whoever watches it.
inline void enter(const Comm& comm, Phase phase) {
  if (comm.heartbeat() != nullptr) comm.heartbeat()->enter(phase);
}

// Initializes MPI (thread level FUNNELED, errors returned) and finalizes it at the end of main.
// Owned by main outside its try block: an abort during unwinding would lose the message.
class Session {
 public:
  Session(int* argc, char*** argv);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  const Comm& world() const { return world_; }
  [[noreturn]] void abort(int code) const;  // ends every rank of the job with `code`

 private:
  Comm world_;
};

// True when this process was started by mpirun or srun, so that MPI_Init joins a job.
bool launched_by_mpi();

// Of what is loaded; empty where it cannot be told.
std::string library_version();  // "Open MPI v4.1.4"
// "OpenPMIx 4.2.2": the client that MPI talks to mpirun or srun with, of which only MPI knows where
// it is. Empty when MPI was not launched, and has loaded none.
std::string pmix_version();

// What one rank's local phase came to. Empty message: success.
struct Outcome {
  ExitCode code = ExitCode::done;
  std::string message;
  bool agreed = false;       // every rank of the job fails with this
  std::string machine = {};  // the one at fault; empty: not known, or none
};
// Runs a local phase (no collectives inside) and catches what it throws.
Outcome attempt(const std::function<void()>& phase);
// Every rank calls this after the phase and before its next collective. When any rank failed, all
// throw the same AgreedError: the first failing rank's, prefixed "<phase>: rank R: " unless all
// failed with the same words.
void agree(const Comm& comm, const Outcome& mine, std::string_view phase);
// attempt + agree; what a lone rank throws comes through as it is.
void together(const Comm& comm, std::string_view phase, const std::function<void()>& body);
// The same for a body that does the same on every rank, with the same files. What only some ranks
// find missing or damaged is their machines' trouble: an environment error.
void together_alike(const Comm& comm, std::string_view phase, const std::function<void()>& body);

}  // namespace demist::mpi
