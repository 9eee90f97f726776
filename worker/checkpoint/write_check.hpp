// Writes chunks to a checkpoint's file, and reads them back while others are on their way to the
// disk.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <span>
#include <stop_token>

#include "core/tensor.hpp"
#include "worker/checkpoint/data_file.hpp"

namespace demist::checkpoint {

class WriteCheck {
 public:
  // `under_way`: bytes written and not yet read back, at most. Enough to keep a disk busy; less
  // than a page cache.
  WriteCheck(DataFile& file, std::size_t largest_chunk, const std::stop_token& stop,
             std::size_t under_way = std::size_t{32} << 20);

  // Returns the chunk's XXH3-64. The disk begins with it at once, with its neighbours when it is
  // small. With too much under way, waits until the disk has taken the oldest chunks and reads
  // those back: throws EnvironmentError when they are not what was written.
  std::uint64_t write(std::uint64_t offset, std::span<const std::byte> bytes);
  // Does so for all that are left; sync() then has little to wait for.
  void finish();

 private:
  struct Chunk {
    std::uint64_t offset;
    std::size_t bytes;
    std::uint64_t xxh3;
  };
  void start();
  void check_oldest();
  void check(const Chunk& chunk);

  DataFile& file_;
  const std::stop_token& stop_;
  const std::size_t limit_;
  static constexpr std::uint64_t kNowhere = std::numeric_limits<std::uint64_t>::max();
  // What the disk has not begun with lies between these.
  std::uint64_t idle_begin_ = kNowhere, idle_end_ = 0;
  std::size_t under_way_ = 0;
  std::deque<Chunk> chunks_;
  Buffer<std::byte> buffer_;
};

}  // namespace demist::checkpoint
