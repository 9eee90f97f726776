// One collective or one transfer of the emulated NCCL, polled until it is done.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "tests/emulation/nccl_communicator.hpp"

namespace demist::emu {

struct Transfer {
  enum class Role { collective, sender, receiver };
  std::shared_ptr<Communicator> communicator;
  Role role = Role::collective;
  MessageHeader header;
  const char* from = nullptr;
  char* to = nullptr;
  bool started = false, finished = false;

  // Bytes of `count` elements.
  std::size_t bytes() const;
  std::size_t bytes_read() const;
  std::size_t bytes_written() const;
  // Empty, or what is wrong with buffers, type or operation.
  std::string objection() const;
  // Its place in the order of the communicator's calls, by which messages find it.
  void take_number();
  // Sends once; true when all that it waits for has come and the result is written. Throws Fault
  // when ranks call different things.
  bool advance();
  std::string describe() const;

 private:
  bool expects(int peer) const;
  void start();
  void finish();
  void reduce_into(char* result, std::size_t own_offset) const;
};

// How often a kind was called in this process, under the device's lock.
std::int64_t& nccl_calls(Kind kind);

// 0: not a type that travels here.
std::size_t width_of(ncclDataType_t type);

}  // namespace demist::emu
