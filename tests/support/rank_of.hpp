// One rank of a group whose other ranks do not exist.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "worker/parallel/communicator.hpp"

namespace demist::test {

// Enough to make what belongs to a group, not to let it exchange anything.
class RankOf final : public Communicator {
 public:
  RankOf(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void barrier() override { fail(); }
  void all_reduce_sum(const TensorView&, std::span<float>) override { fail(); }
  void all_reduce_sum(std::span<std::int64_t>) override { fail(); }
  void all_reduce_max(std::span<float>) override { fail(); }
  void reduce_scatter_sum(std::span<std::int64_t>, std::span<const std::int64_t>,
                          std::span<const std::int64_t>) override {
    fail();
  }
  void reduce_scatter_sum(std::span<float>, std::span<const float>,
                          std::span<const std::int64_t>) override {
    fail();
  }
  void all_gather(std::span<std::byte>, std::span<const std::int64_t>) override { fail(); }
  void broadcast(std::span<std::byte>, int) override { fail(); }

 private:
  [[noreturn]] static void fail() { throw InternalError("there are no other ranks"); }
  int rank_, size_;
};

}  // namespace demist::test
