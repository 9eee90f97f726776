// AdamW over one data-parallel shard of the arena (ZeRO-1, Rajbhandari et al. 2020).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.hpp"
#include "worker/checkpoint/checkpoint.hpp"
#include "worker/config.hpp"
#include "worker/model/parameters.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist {

// Owns the fp32 master parameters and moments of this rank's shard, and the working copy of the
// whole arena that the model reads: matrices in the compute type, vectors in fp32.
class ShardedAdamW {
 public:
  ShardedAdamW(const ModelConfig& model, const ParameterTable& table, Backend& backend,
               ParallelGroups& groups, DType compute, const OptimizerConfig& config);

  const ModelViews& weights() const { return weights_; }
  std::int64_t shard_size() const { return shard_size_; }

  // Fill this shard's masters and moments; publish() must follow on all ranks.
  // N(0, stddev) by (seed, name, logical row and column): the same for any layout. Moments are
  // zero.
  void initialize(std::uint64_t seed);
  void read(const checkpoint::Checkpoint& from, bool with_moments);  // throws CheckpointError
  // Rounds the masters into the working copy of all ranks. Collective.
  void publish();
  // Copies this shard into `snapshot`: its tensors and pieces, made on the first call, and the
  // values, on every call, which are on their way then (Snapshot::arrived): updates wait for them.
  // `snapshot` then belongs to this object.
  void copy_state(checkpoint::Snapshot& snapshot) const;
  void wait_for_copy() const { state_out_->wait(); }

  // Global norm of the gradient whose shard is given, before division by the normalizer.
  // Collective.
  double gradient_norm(std::span<const float> shard_grad);
  // One update with gradient * grad_scale at 0-based step; then gathers the working copy.
  // Collective.
  void update(std::span<const float> shard_grad, float grad_scale, std::int64_t step);
  std::size_t bytes() const;

 private:
  struct Segment {  // a parameter's part of this shard
    const Parameter* parameter;
    std::int64_t begin, end;  // in the arena
    std::int64_t at;          // in the shard
  };
  template <class Fill>
  void fill_from_host(Buffer<float>& buffer, const Segment& segment, Fill&& fill);
  void zero_moments();
  void lay_out(checkpoint::Snapshot& snapshot) const;
  template <class Body>
  void refresh_working_copy(Body&& body);
  void gather_working_copy(const Bucket& bucket);
  TensorView working(std::int64_t begin, std::int64_t count);
  // The part of what is laid out as the shard is that a segment or a slice names.
  template <class T, class Place>
  static std::span<T> part(std::span<T> shard, const Place& place);

  const ParameterTable& table_;
  Backend& backend_;
  ParallelGroups& groups_;
  const DType compute_;
  const OptimizerConfig config_;
  std::int64_t shard_size_ = 0;
  std::vector<ShardSlice> slices_;  // of the buckets
  std::vector<Segment> segments_;   // bucket after bucket
  Buffer<float> master_, m_, v_;
  Buffer<std::byte> matrices_;
  Buffer<float> vectors_;
  Buffer<double> tiles_;  // sums of squares
  ModelViews weights_;
  std::unique_ptr<ReadBack> state_out_;
};

}  // namespace demist
