// A communicator of the emulated NCCL: ranks, and messages among them over MPI. Nothing here waits;
// everything is polled, so that no stream holds up another.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>
#include <nccl.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace demist::emu {

enum class Kind : std::uint32_t {
  all_reduce,
  reduce,
  reduce_scatter,
  all_gather,
  broadcast,
  all_to_all,
  split,
  point_to_point
};

// Travels with every message, so that ranks which call different things are told so.
struct MessageHeader {
  std::uint64_t communicator = 0;
  std::uint64_t sequence = 0;
  Kind kind = Kind::all_reduce;
  std::uint32_t type = 0;
  std::uint32_t operation = 0;
  std::int32_t root = 0;
  std::uint64_t count = 0;
  bool operator==(const MessageHeader&) const = default;
};
std::string describe(const MessageHeader& header);

struct Message {
  MessageHeader header;
  std::vector<char> payload;
};

class Communicator {
 public:
  // Finds the other ranks through the process that made the id, which must be one of them.
  Communicator(const ncclUniqueId& id, int rank, int size, bool blocking);
  // The ranks of `parent` that gave the same color, in the order of (key, rank).
  Communicator(std::shared_ptr<Communicator> parent, int color, int key, bool blocking);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  static ncclUniqueId make_id();

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(members_.size()); }
  std::uint64_t id() const { return id_; }
  bool blocking() const { return blocking_; }

  // Goes on with finding the other ranks. ncclInProgress, or how it ended.
  ncclResult_t advance();
  ncclResult_t state() const { return state_; }
  void fail(ncclResult_t error) { state_ = error; }
  void abort() { aborted_ = true; }
  bool aborted() const { return aborted_; }

  // A non-blocking communicator may make its caller poll after any call.
  void demand_poll() { polls_due_ = 1; }
  bool poll_due() const { return polls_due_ > 0; }
  void poll() { polls_due_ = 0; }

  std::uint64_t next_collective() { return collectives_++; }
  std::uint64_t next_send(int peer) { return sends_[static_cast<std::size_t>(peer)]++; }
  std::uint64_t next_receive(int peer) { return receives_[static_cast<std::size_t>(peer)]++; }

  void send(int peer, const MessageHeader& header, const void* payload, std::size_t bytes);
  // The message, if it has come. It stays until take().
  const Message* find(int peer, const MessageHeader& like);
  void take(int peer, const MessageHeader& like);
  bool all_sent();

 private:
  struct Outgoing {
    std::vector<char> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  using Key = std::tuple<int, bool, std::uint64_t>;  // peer, point to point, sequence

  void post(int world_rank, int tag, std::vector<char> bytes);
  void receive_waiting();
  ncclResult_t join(const ncclUniqueId& id, int size);
  ncclResult_t serve(int size);
  ncclResult_t separate(int color, int key, std::uint64_t number);
  void settle(std::uint64_t id, int rank, std::vector<int> members);

  std::shared_ptr<Communicator> parent_;
  std::uint64_t id_ = 0;
  int rank_ = 0;
  bool blocking_ = true;
  bool aborted_ = false;
  int polls_due_ = 0;
  std::vector<int> members_;  // rank here -> rank in MPI_COMM_WORLD
  ncclResult_t state_ = ncclInProgress;
  std::function<ncclResult_t()> joining_;
  std::uint64_t collectives_ = 0;
  std::vector<std::uint64_t> sends_, receives_;
  std::list<Outgoing> outgoing_;
  std::map<Key, Message> inbox_;
  std::map<int, int> arrivals_;  // rank -> world rank, while the id's maker collects them
};

}  // namespace demist::emu
