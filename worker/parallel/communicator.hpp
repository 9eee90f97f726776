// How tensors travel between ranks: within one, by MPI or by NCCL; one conformance suite for all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/mpi.hpp"
#include "core/tensor.hpp"

namespace demist {

// Collectives over a group of ranks; all must enter in the same order. Counts are elements.
// Floating-point sums add in rank order, so every rank gets the same bits, run after run.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void barrier() = 0;
  // out = the sum of all ranks' terms, in out's type: the rank that adds a slice rounds it, so that
  // sums for bf16 come back in half the bytes. out: as many elements, in rows without gaps; it may
  // be the terms themselves. What terms hold afterwards is undefined.
  virtual void all_reduce_sum(const TensorView& out, std::span<float> terms) = 0;
  void all_reduce_sum(std::span<float> values) { all_reduce_sum(vector_view(values), values); }
  virtual void all_reduce_sum(std::span<std::int64_t> values) = 0;
  virtual void all_reduce_max(std::span<float> values) = 0;  // a NaN anywhere gives NaN everywhere
  // Rank r receives the sum of all ranks' in[starts[r], starts[r + 1]); in.size() == starts.back().
  virtual void reduce_scatter_sum(std::span<std::int64_t> out, std::span<const std::int64_t> in,
                                  std::span<const std::int64_t> starts) = 0;
  virtual void reduce_scatter_sum(std::span<float> out, std::span<const float> in,
                                  std::span<const std::int64_t> starts) = 0;
  // all[starts[r], starts[r + 1]) comes from rank r; in place: mine may lie inside all. Bytes.
  virtual void all_gather(std::span<std::byte> all, std::span<const std::int64_t> starts) = 0;
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;

  // Collectives called between detach() and join() may run beside what the backend is given in the
  // meantime: they wait for what was queued before the (last) detach(), and what is queued after
  // join() waits for them. Where tensors lie in host memory every collective is over when it
  // returns.
  virtual void detach() {}
  virtual void join() {}
  // What is under way ends, whatever the others do, and leaves anything behind; from now on the
  // communicator can only be destroyed. For a rank that ends with an error.
  virtual void abort() {}
};

// Longer messages are cut; tests lower the limits to reach that code with short ones.
struct MessageLimits {
  std::size_t staging_bytes = std::size_t{16} << 20;  // received terms of a sum held at a time
  std::size_t message_bytes = std::size_t{1} << 30;   // one MPI call; MPI counts are int
};

std::unique_ptr<Communicator> make_local_communicator();
// Duplicates comm.
std::unique_ptr<Communicator> make_mpi_communicator(const mpi::Comm& comm,
                                                    MessageLimits limits = {});

// tensor x data grid: world rank = data_rank * tensor_size + tensor_rank.
struct ParallelLayout {
  int tensor_size = 1, tensor_rank = 0;
  int data_size = 1, data_rank = 0;
};
struct ParallelGroups {
  ParallelLayout layout;
  std::unique_ptr<Communicator> tensor, data;  // of tensors, in the backend's memory
  std::unique_ptr<Communicator> world;         // of numbers in host memory
};
// `tensors_over` makes the communicators of tensors. Collective. Throws ConfigError when
// tensor_size does not divide the number of ranks.
using CommunicatorFactory = std::function<std::unique_ptr<Communicator>(const mpi::Comm&)>;
ParallelGroups make_parallel_groups(const mpi::Comm& world, int tensor_size,
                                    const CommunicatorFactory& tensors_over);
// Local or MPI, for host memory.
std::unique_ptr<Communicator> make_host_communicator(const mpi::Comm& comm);

}  // namespace demist
