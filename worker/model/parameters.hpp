// Which tensors the model has, which part of each lives here, and where in the flat arena.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.hpp"
#include "worker/config.hpp"

namespace demist {

// How tensor parallelism cuts a logical matrix. A vector is a matrix of one row.
enum class Split { none, rows, columns };

struct Parameter {
  std::string name;       // logical name: docs/formats/checkpoint.md, "Tensors"
  std::int64_t rows = 1;  // of the logical tensor
  std::int64_t cols = 0;
  Split split = Split::none;
  bool matrix = true;         // working copy in the compute type, weight decay; else fp32, none
  float init_stddev = 0.02f;  // N(0, stddev); 0: constant init_value
  float init_value = 0;
  std::int64_t zero_row = -1;  // row that starts at zero and gets no gradient (padding)
  bool packed = false;         // follows the previous one without padding (q | k | v)
  bool words = false;          // what is split is the vocabulary

  // Filled in by ParameterTable.
  std::int64_t local_rows = 0,
               local_cols = 0;                  // held here; parts of the vocabulary are padded
  std::int64_t row_begin = 0, col_begin = 0;    // of the local part in the logical tensor
  std::int64_t valid_rows = 0, valid_cols = 0;  // of the local part that exist logically
  std::int64_t offset = 0;                      // first element in the arena
  std::int64_t local_size() const { return local_rows * local_cols; }
};

// A run of elements that is contiguous both in the arena and in the flattened logical tensor.
struct ParameterRun {
  std::int64_t arena = 0;    // first element in the arena
  std::int64_t logical = 0;  // first element of the flattened logical tensor
  std::int64_t count = 0;
};

// A run of the arena that travels between data-parallel ranks in one piece: its gradients are
// complete when the backward pass has left layer `first_layer` (-1: when it ends).
struct Bucket {
  std::int64_t begin = 0, end = 0;
  std::int64_t first_layer = -1;
};
// A data-parallel rank's part of a bucket, and its first element in the rank's shard.
struct ShardSlice {
  std::int64_t begin = 0, end = 0;
  std::int64_t at = 0;
};

// The arena is one index space of elements: matrices in [0, matrices_end()), vectors after them,
// each region padded to whole norm tiles, and in buckets, each of which is cut between
// data-parallel ranks at tile borders. Parameters, moments, gradients and accumulators all use
// these offsets.
class ParameterTable {
 public:
  static constexpr std::int64_t kTile = 1024;  // = Backend::kNormTile

  // Rows of logits are as long as a rank's part of the vocabulary, and the fastest products of a
  // GPU take only rows of whole 16 bytes.
  static constexpr std::int64_t vocabulary_unit(bool on_device) { return on_device ? 8 : 1; }

  // Throws ConfigError when tensor_size does not divide the heads or the FFN width. Every rank's
  // part of the vocabulary is a multiple of `vocabulary_unit`.
  ParameterTable(const ModelConfig& config, int tensor_size, int tensor_rank,
                 std::int64_t vocabulary_unit = 1);

  std::span<const Parameter> parameters() const { return parameters_; }
  const Parameter& find(const std::string& name) const;  // throws InternalError
  std::int64_t size() const { return size_; }
  std::int64_t matrices_end() const { return matrices_end_; }
  // In the order of the arena, which they tile; no bucket holds matrices and vectors.
  std::span<const Bucket> buckets() const { return buckets_; }
  // data_size + 1 borders, counted from the bucket's begin, that cut it into nearly equal runs at
  // tile borders of the arena.
  static std::vector<std::int64_t> shard_starts(const Bucket& bucket, int data_size);
  // One slice a bucket, in the same order; data_size 1: the arena itself.
  std::vector<ShardSlice> shard(int data_size, int data_rank) const;
  // The logical elements of `parameter` inside arena elements [begin, end), as runs.
  static std::vector<ParameterRun> runs(const Parameter& parameter, std::int64_t begin,
                                        std::int64_t end);
  // Logical elements of the whole model (tied head counted once).
  std::int64_t logical_size() const;

 private:
  void place(int tensor_size, int tensor_rank, std::int64_t vocabulary_unit);
  void cut_into_buckets(std::int64_t layers);
  std::vector<Parameter> parameters_;
  std::vector<Bucket> buckets_;
  std::int64_t size_ = 0;
  std::int64_t matrices_end_ = 0;
};

struct NormViews {
  std::span<float> gamma, beta;
};
struct LayerViews {
  TensorView qkv, output, ffn_in, ffn_out;  // [3 dl, d], [d, dl], [fl, d], [d, fl]
  std::span<float> qkv_bias, output_bias, ffn_in_bias, ffn_out_bias;
};
// The arena seen as the model uses it: working weights, or gradients (then all fp32).
// norms[0] follows the embeddings, norms[2 i + 1] layer i's attention, norms[2 i + 2] its FFN.
struct ModelViews {
  TensorView word, position, type;
  std::vector<LayerViews> layers;
  std::vector<NormViews> norms;
  TensorView head_dense;
  std::span<float> head_dense_bias;
  NormViews head_norm;
  std::span<float> head_bias;
};
// `matrices` holds matrices_end() elements of `dtype`; `vectors` the fp32 elements after it. Both
// may lie in a device's memory: nothing is read.
ModelViews make_views(const ModelConfig& config, const ParameterTable& table, void* matrices,
                      DType dtype, float* vectors);

// Name of the norm at position `index` of ModelViews::norms, without ".weight" or ".bias".
std::string norm_name(const ModelConfig& config, std::int64_t index);

}  // namespace demist
