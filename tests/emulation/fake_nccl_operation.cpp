// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>

#include "tests/emulation/device_memory.hpp"
#include "tests/emulation/emulator.hpp"
#include "tests/emulation/nccl_operation.hpp"

namespace demist::emu {
namespace {

template <class T>
T combined(T a, T b, bool sum) {
  return sum ? a + b : std::max(a, b);
}
// Each hop rounds, as rings do that pass bf16 on.
template <>
__nv_bfloat16 combined(__nv_bfloat16 a, __nv_bfloat16 b, bool sum) {
  return __float2bfloat16(combined(__bfloat162float(a), __bfloat162float(b), sum));
}
template <>
std::int64_t combined(std::int64_t a, std::int64_t b, bool sum) {
  return sum ? static_cast<std::int64_t>(static_cast<std::uint64_t>(a) +
                                         static_cast<std::uint64_t>(b))
             : std::max(a, b);
}

template <class T>
void combine(char* into, const char* from, std::size_t count, bool sum) {
  for (std::size_t i = 0; i < count; ++i) {
    T a, b;
    std::memcpy(&a, into + i * sizeof(T), sizeof(T));
    std::memcpy(&b, from + i * sizeof(T), sizeof(T));
    const T result = combined(a, b, sum);
    std::memcpy(into + i * sizeof(T), &result, sizeof(T));
  }
}

using Combiner = void (*)(char*, const char*, std::size_t, bool);
Combiner combiner_of(std::uint32_t type) {
  switch (type) {
    case ncclFloat32:
      return combine<float>;
    case ncclFloat64:
      return combine<double>;
    case ncclInt32:
      return combine<std::int32_t>;
    case ncclInt64:
      return combine<std::int64_t>;
    case ncclBfloat16:
      return combine<__nv_bfloat16>;
    default:
      return nullptr;
  }
}

bool reduces(Kind kind) {
  return kind == Kind::all_reduce || kind == Kind::reduce || kind == Kind::reduce_scatter;
}

}  // namespace

std::size_t width_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 0;
  }
}

std::size_t Transfer::bytes() const {
  return header.count * width_of(static_cast<ncclDataType_t>(header.type));
}
std::size_t Transfer::bytes_read() const {
  const auto size = static_cast<std::size_t>(communicator->size());
  if (role == Role::receiver) return 0;
  if (header.kind == Kind::broadcast && communicator->rank() != header.root) return 0;
  return header.kind == Kind::reduce_scatter || header.kind == Kind::all_to_all ? bytes() * size
                                                                                : bytes();
}
std::size_t Transfer::bytes_written() const {
  const auto size = static_cast<std::size_t>(communicator->size());
  if (role == Role::sender) return 0;
  if (header.kind == Kind::reduce && communicator->rank() != header.root) return 0;
  return header.kind == Kind::all_gather || header.kind == Kind::all_to_all ? bytes() * size
                                                                            : bytes();
}

std::string Transfer::objection() const {
  if (width_of(static_cast<ncclDataType_t>(header.type)) == 0) return "this type is not imitated";
  if (reduces(header.kind)) {
    if (combiner_of(header.type) == nullptr) return "this type is not reduced here";
    if (header.operation != ncclSum && header.operation != ncclMax)
      return "of the reductions only sum and max are imitated";
  }
  const std::size_t reads = bytes_read(), writes = bytes_written();
  if (reads != 0 && !in_device_memory(from, reads))
    return "the send buffer does not lie in one piece of device memory";
  if (writes != 0 && !in_device_memory(to, writes))
    return "the receive buffer does not lie in one piece of device memory";
  if (reads == 0 || writes == 0 || from + reads <= to || to + writes <= from) return {};
  // In place means that a rank's own part lies where it belongs.
  const std::size_t own = static_cast<std::size_t>(communicator->rank()) * bytes();
  const bool in_place = header.kind == Kind::reduce_scatter ? to == from + own
                        : header.kind == Kind::all_gather   ? from == to + own
                        : header.kind == Kind::all_to_all   ? false
                                                            : from == to;
  return in_place ? "" : "the buffers overlap, and not as an operation in place";
}

void Transfer::take_number() {
  header.sequence = role == Role::collective ? communicator->next_collective()
                    : role == Role::sender   ? communicator->next_send(header.root)
                                             : communicator->next_receive(header.root);
}

bool Transfer::expects(int peer) const {
  if (role != Role::collective) return role == Role::receiver && peer == header.root;
  if (header.kind == Kind::broadcast)
    return peer == header.root && communicator->rank() != header.root;
  if (header.kind == Kind::reduce && communicator->rank() != header.root) return false;
  return peer != communicator->rank();
}

void Transfer::start() {
  const int rank = communicator->rank();
  if (role == Role::receiver) return;
  if (role == Role::sender) {
    MessageHeader sent = header;
    sent.root = rank;  // the receiver knows it as its peer
    communicator->send(header.root, sent, from, bytes());
    return;
  }
  if (header.kind == Kind::broadcast && rank != header.root) return;
  const bool in_parts = header.kind == Kind::reduce_scatter || header.kind == Kind::all_to_all;
  for (int peer = 0; peer < communicator->size(); ++peer)
    if (peer != rank && (header.kind != Kind::reduce || peer == header.root))
      communicator->send(
          peer, header, in_parts ? from + static_cast<std::size_t>(peer) * bytes() : from, bytes());
}

bool Transfer::advance() {
  if (finished || communicator->aborted()) return true;
  if (!started) {
    if (const std::string why = objection(); !why.empty()) throw Fault("NCCL: " + why);
    start();
    started = true;
  }
  for (int peer = 0; peer < communicator->size(); ++peer) {
    if (!expects(peer)) continue;
    const Message* message = communicator->find(peer, header);
    if (message == nullptr) return false;
    if (message->header != header)
      throw Fault("NCCL: rank " + std::to_string(communicator->rank()) + " calls " +
                  emu::describe(header) + ", rank " + std::to_string(peer) + " calls " +
                  emu::describe(message->header));
  }
  finish();
  for (int peer = 0; peer < communicator->size(); ++peer)
    if (expects(peer)) communicator->take(peer, header);
  finished = true;
  return true;
}

// The order of the ranks is one that no caller may count on, but the same for all of them.
void Transfer::reduce_into(char* result, std::size_t own_offset) const {
  const auto size = static_cast<std::size_t>(communicator->size());
  std::vector<char> sum;
  for (std::size_t i = 0; i < size; ++i) {
    const int peer = static_cast<int>((i + options().seed) % size);
    const char* part = peer == communicator->rank()
                           ? from + own_offset
                           : communicator->find(peer, header)->payload.data();
    if (i == 0)
      sum.assign(part, part + bytes());
    else
      combiner_of(header.type)(sum.data(), part, header.count, header.operation == ncclSum);
  }
  if (!sum.empty()) std::memcpy(result, sum.data(), sum.size());
}

void Transfer::finish() {
  const int rank = communicator->rank();
  const std::size_t own = static_cast<std::size_t>(rank) * bytes();
  if (bytes() == 0 || role == Role::sender) return;
  switch (header.kind) {
    case Kind::reduce:
      if (rank != header.root) return;
      [[fallthrough]];
    case Kind::all_reduce:
      reduce_into(to, 0);
      return;
    case Kind::reduce_scatter:
      reduce_into(to, own);
      return;
    case Kind::broadcast:
    case Kind::point_to_point: {
      const bool is_root = role == Role::collective && rank == header.root;
      const char* data = is_root ? from : communicator->find(header.root, header)->payload.data();
      std::memmove(to, data, bytes());
      return;
    }
    default:
      break;
  }
  for (int peer = 0; peer < communicator->size(); ++peer) {
    const char* data = peer != rank ? communicator->find(peer, header)->payload.data()
                       : header.kind == Kind::all_to_all ? from + own
                                                         : from;
    std::memmove(to + static_cast<std::size_t>(peer) * bytes(), data, bytes());
  }
}

std::string Transfer::describe() const {
  if (finished) return {};
  std::string text = " NCCL: rank " + std::to_string(communicator->rank()) + " of " +
                     std::to_string(communicator->size()) + " waits in " + emu::describe(header) +
                     " for rank";
  for (int peer = 0; peer < communicator->size(); ++peer)
    if (expects(peer) && communicator->find(peer, header) == nullptr)
      text.append(" ").append(std::to_string(peer));
  return text;
}

}  // namespace demist::emu
