// Reads back what was written to a checkpoint's file, while the rest is on its way to the disk.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <stop_token>

#include "core/tensor.hpp"
#include "worker/checkpoint/data_file.hpp"

namespace demist::checkpoint {

// Throws EnvironmentError when the save was given up.
void refuse_if_stopped(const std::stop_token& stop);

class WriteCheck {
 public:
  // `under_way`: bytes written and not yet read back, at most. Enough to keep a disk busy; less
  // than a page cache.
  WriteCheck(DataFile& file, std::size_t largest_chunk, const std::stop_token& stop,
             std::size_t under_way = std::size_t{32} << 20);

  // A chunk that was written. Waits until the disk has taken the oldest ones and reads those back:
  // throws EnvironmentError when they are not what was written.
  void expect(std::uint64_t offset, std::size_t bytes, std::uint64_t xxh3);
  // The chunks that are left; after sync().
  void finish();

 private:
  struct Chunk {
    std::uint64_t offset;
    std::size_t bytes;
    std::uint64_t xxh3;
  };
  void check(const Chunk& chunk);

  DataFile& file_;
  const std::stop_token& stop_;
  const std::size_t limit_;
  std::size_t under_way_ = 0;
  std::deque<Chunk> chunks_;
  Buffer<std::byte> buffer_;
};

}  // namespace demist::checkpoint
