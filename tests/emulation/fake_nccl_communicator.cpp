// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <random>

#include "tests/emulation/nccl_communicator.hpp"
#include "tests/emulation/nccl_faults.hpp"

namespace demist::emu {
namespace {

// Tags far above those of the product's own messages; 2^20 of each kind.
constexpr int kTags = 1 << 20;
int message_tag(std::uint64_t id) { return 16 * kTags + static_cast<int>(id % kTags); }
int hello_tag(std::uint64_t id) { return 17 * kTags + static_cast<int>(id % kTags); }
int roster_tag(std::uint64_t id) { return 18 * kTags + static_cast<int>(id % kTags); }

struct IdWords {
  std::uint64_t nonce;
  std::int32_t maker;  // its rank in MPI_COMM_WORLD
};
IdWords words_of(const ncclUniqueId& id) {
  IdWords words;
  std::memcpy(&words, id.internal, sizeof words);
  return words;
}

struct Hello {
  std::int32_t rank, size, world_rank;
};

int world_rank() {
  int initialized = 0, rank = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

template <class T>
std::vector<char> bytes_of(const T* data, std::size_t count) {
  std::vector<char> bytes(count * sizeof(T));
  if (count != 0) std::memcpy(bytes.data(), data, bytes.size());
  return bytes;
}

// A waiting message from `source`, whole, or nothing.
bool receive(int source, int tag, std::vector<char>& bytes, int& from) {
  int waiting = 0, length = 0;
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  MPI_Improbe(source, tag, MPI_COMM_WORLD, &waiting, &message, &status);
  if (waiting == 0) return false;
  MPI_Get_count(&status, MPI_BYTE, &length);
  bytes.resize(static_cast<std::size_t>(length));
  MPI_Mrecv(bytes.data(), length, MPI_BYTE, &message, &status);
  from = status.MPI_SOURCE;
  return true;
}

ncclResult_t complain(ncclResult_t error, const std::string& what) {
  std::fprintf(stderr, "emulated NCCL: %s\n", what.c_str());
  return error;
}

}  // namespace

std::string describe(const MessageHeader& header) {
  static constexpr std::array kNames{"AllReduce", "Reduce",   "ReduceScatter", "AllGather",
                                     "Broadcast", "AlltoAll", "CommSplit",     "Send/Recv"};
  return std::string(kNames.at(static_cast<std::size_t>(header.kind))) + " of " +
         std::to_string(header.count) + " elements (type " + std::to_string(header.type) +
         ", operation " + std::to_string(header.operation) + ", root or peer " +
         std::to_string(header.root) + ")";
}

ncclUniqueId Communicator::make_id() {
  ncclUniqueId id{};
  std::random_device random;
  const IdWords words{std::uint64_t{random()} << 32 | random(), world_rank()};
  std::memcpy(id.internal, &words, sizeof words);
  return id;
}

Communicator::Communicator(const ncclUniqueId& id, int rank, int size, bool blocking)
    : id_(words_of(id).nonce), rank_(rank), blocking_(blocking) {
  if (size == 1) {
    settle(id_, 0, {world_rank()});
    return;
  }
  const Hello hello{rank, size, world_rank()};
  post(words_of(id).maker, hello_tag(id_), bytes_of(&hello, 1));
  joining_ = [this, id, size] { return join(id, size); };
}

Communicator::Communicator(std::shared_ptr<Communicator> parent, int color, int key, bool blocking)
    : parent_(std::move(parent)), blocking_(blocking) {
  const MessageHeader header{.communicator = parent_->id(),
                             .sequence = parent_->next_collective(),
                             .kind = Kind::split,
                             .count = 2};
  const std::array<std::int32_t, 2> mine{color, key};
  for (int peer = 0; peer < parent_->size(); ++peer)
    if (peer != parent_->rank()) parent_->send(peer, header, mine.data(), sizeof mine);
  joining_ = [this, color, key, number = header.sequence] { return separate(color, key, number); };
}

Communicator::~Communicator() {
  // What a peer never received stays allocated: MPI may still read it.
  if (all_sent()) return;
  static auto& abandoned = *new std::list<Outgoing>;
  abandoned.splice(abandoned.end(), outgoing_);
}

void Communicator::settle(std::uint64_t id, int rank, std::vector<int> members) {
  id_ = id;
  rank_ = rank;
  members_ = std::move(members);
  sends_.assign(members_.size(), 0);
  receives_.assign(members_.size(), 0);
  state_ = ncclSuccess;
}

ncclResult_t Communicator::advance() {
  if (nccl_faults().stall_start && state_ == ncclInProgress) return state_;
  if (state_ == ncclInProgress && joining_ != nullptr) {
    state_ = joining_();
    if (state_ != ncclInProgress) joining_ = nullptr;
  }
  return state_;
}

// The maker of the id answers when all have said hello; every rank waits for its answer.
ncclResult_t Communicator::join(const ncclUniqueId& id, int size) {
  const IdWords words = words_of(id);
  if (words.maker == world_rank())
    if (const ncclResult_t error = serve(size); error != ncclSuccess) return error;
  std::vector<char> bytes;
  int from = 0;
  if (!receive(words.maker, roster_tag(id_), bytes, from)) return ncclInProgress;
  std::vector<int> members(bytes.size() / sizeof(int));
  if (members.size() != static_cast<std::size_t>(size))
    return complain(ncclInvalidArgument, "CommInitRank: ranks disagree about size or ranks");
  std::memcpy(members.data(), bytes.data(), bytes.size());
  settle(id_, rank_, std::move(members));
  return ncclSuccess;
}

ncclResult_t Communicator::serve(int size) {
  std::vector<char> bytes;
  int from = 0;
  bool agree = true;
  while (receive(MPI_ANY_SOURCE, hello_tag(id_), bytes, from)) {
    Hello hello{};
    std::memcpy(&hello, bytes.data(), sizeof hello);
    agree = agree && hello.size == size && !arrivals_.contains(hello.rank);
    arrivals_[agree ? hello.rank : -1 - hello.world_rank] = hello.world_rank;
  }
  const bool answered = arrivals_.empty() && !members_.empty();
  if (answered) return ncclSuccess;
  for (const auto& [rank, world] : arrivals_) agree = agree && rank >= 0;
  if (agree && arrivals_.size() < static_cast<std::size_t>(size)) return ncclInProgress;
  std::vector<int> roster;
  for (const auto& [rank, world] : arrivals_) roster.push_back(world);
  // An empty roster says that the ranks disagree.
  const auto answer = bytes_of(roster.data(), agree ? roster.size() : 0);
  for (const int world : roster) post(world, roster_tag(id_), answer);
  arrivals_.clear();
  members_ = roster;
  return ncclSuccess;
}

ncclResult_t Communicator::separate(int color, int key, std::uint64_t number) {
  const MessageHeader like{
      .communicator = parent_->id(), .sequence = number, .kind = Kind::split, .count = 2};
  std::vector<std::array<int, 3>> group;  // key, rank, world rank
  for (int peer = 0; peer < parent_->size(); ++peer) {
    std::array<std::int32_t, 2> theirs{color, key};
    if (peer != parent_->rank()) {
      const Message* message = parent_->find(peer, like);
      if (message == nullptr) return ncclInProgress;
      if (message->header != like)
        return complain(ncclInvalidUsage, "rank " + std::to_string(parent_->rank()) +
                                              " splits, rank " + std::to_string(peer) + " calls " +
                                              describe(message->header));
      std::memcpy(theirs.data(), message->payload.data(), sizeof theirs);
    }
    if (theirs[0] == color)
      group.push_back({theirs[1], peer, parent_->members_[static_cast<std::size_t>(peer)]});
  }
  for (int peer = 0; peer < parent_->size(); ++peer) parent_->take(peer, like);
  std::sort(group.begin(), group.end());
  std::vector<int> members;
  int own = 0;
  for (const auto& [k, peer, world] : group) {
    if (peer == parent_->rank()) own = static_cast<int>(members.size());
    members.push_back(world);
  }
  std::mt19937_64 mix(parent_->id() + 0x9e3779b97f4a7c15u * (number + 1) +
                      static_cast<std::uint64_t>(color));
  settle(mix(), own, std::move(members));
  return ncclSuccess;
}

void Communicator::post(int world_rank, int tag, std::vector<char> bytes) {
  Outgoing& out = outgoing_.emplace_back();
  out.bytes = std::move(bytes);
  MPI_Isend(out.bytes.data(), static_cast<int>(out.bytes.size()), MPI_BYTE, world_rank, tag,
            MPI_COMM_WORLD, &out.request);
}

bool Communicator::all_sent() {
  outgoing_.remove_if([](Outgoing& out) {
    int sent = 0;
    MPI_Test(&out.request, &sent, MPI_STATUS_IGNORE);
    return sent != 0;
  });
  return outgoing_.empty();
}

void Communicator::send(int peer, const MessageHeader& header, const void* payload,
                        std::size_t bytes) {
  std::vector<char> whole(sizeof header + bytes);
  std::memcpy(whole.data(), &header, sizeof header);
  if (bytes != 0) std::memcpy(whole.data() + sizeof header, payload, bytes);
  if (peer != rank_) {
    post(members_[static_cast<std::size_t>(peer)], message_tag(id_), std::move(whole));
    return;
  }
  inbox_[{peer, header.kind == Kind::point_to_point, header.sequence}] = {
      header, {whole.begin() + sizeof header, whole.end()}};
}

void Communicator::receive_waiting() {
  std::vector<char> bytes;
  int from = 0;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    while (receive(members_[static_cast<std::size_t>(peer)], message_tag(id_), bytes, from)) {
      MessageHeader header;
      std::memcpy(static_cast<void*>(&header), bytes.data(), sizeof header);
      if (header.communicator != id_) continue;  // of one that was aborted
      inbox_[{peer, header.kind == Kind::point_to_point, header.sequence}] = {
          header, {bytes.begin() + sizeof header, bytes.end()}};
    }
  }
  all_sent();
}

const Message* Communicator::find(int peer, const MessageHeader& like) {
  const Key key{peer, like.kind == Kind::point_to_point, like.sequence};
  auto entry = inbox_.find(key);
  if (entry == inbox_.end()) {
    receive_waiting();
    entry = inbox_.find(key);
  }
  return entry == inbox_.end() ? nullptr : &entry->second;
}

void Communicator::take(int peer, const MessageHeader& like) {
  inbox_.erase({peer, like.kind == Kind::point_to_point, like.sequence});
}

}  // namespace demist::emu
