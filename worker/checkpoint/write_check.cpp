// SPDX-License-Identifier: Apache-2.0
#include "worker/checkpoint/write_check.hpp"

#include <algorithm>

#include "core/checksum.hpp"
#include "core/error.hpp"

namespace demist::checkpoint {

namespace {

void refuse_if_stopped(const std::stop_token& stop) {
  if (stop.stop_requested()) throw EnvironmentError("the save was given up");
}

}  // namespace

WriteCheck::WriteCheck(DataFile& file, std::size_t largest_chunk, const std::stop_token& stop,
                       std::size_t under_way)
    : file_(file), stop_(stop), limit_(under_way), buffer_(largest_chunk) {}

std::uint64_t WriteCheck::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  constexpr std::size_t worth_a_call = std::size_t{1} << 20;
  refuse_if_stopped(stop_);
  for (std::size_t done = 0; done < bytes.size();) {
    const auto piece = bytes.subspan(done, std::min(worth_a_call, bytes.size() - done));
    file_.write_at(offset + done, piece);
    idle_begin_ = std::min(idle_begin_, offset + done);
    done += piece.size();
    idle_end_ = std::max(idle_end_, offset + done);
    if (idle_end_ - idle_begin_ >= worth_a_call) start();
  }
  chunks_.push_back({offset, bytes.size(), xxh3_64(bytes)});
  const std::uint64_t xxh3 = chunks_.back().xxh3;
  under_way_ += bytes.size();
  while (under_way_ > limit_) check_oldest();
  return xxh3;
}

void WriteCheck::finish() {
  start();
  while (!chunks_.empty()) check_oldest();
}

void WriteCheck::start() {
  if (idle_begin_ < idle_end_) file_.start(idle_begin_, idle_end_ - idle_begin_);
  idle_begin_ = kNowhere;
  idle_end_ = 0;
}

void WriteCheck::check_oldest() {
  const Chunk oldest = chunks_.front();
  file_.settle(oldest.offset, oldest.bytes);
  check(oldest);
  under_way_ -= oldest.bytes;
  chunks_.pop_front();
}

void WriteCheck::check(const Chunk& chunk) {
  refuse_if_stopped(stop_);
  const auto bytes = buffer_.span().first(chunk.bytes);
  file_.read_at(chunk.offset, bytes);
  if (xxh3_64(bytes) != chunk.xxh3)
    throw EnvironmentError(file_.path().string() +
                           ": reading back gives other bytes than were written; check the disk");
}

}  // namespace demist::checkpoint
