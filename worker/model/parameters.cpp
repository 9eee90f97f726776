// SPDX-License-Identifier: Apache-2.0
#include "worker/model/parameters.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace demist {
namespace {

constexpr std::int64_t kAlign = 16;  // elements: 64 bytes of fp32

// Layers are put together to buckets of at least so many elements: 16 MiB of fp32 keep a network
// busy long enough that starting a collective does not matter.
constexpr std::int64_t kBucketElements = 4 << 20;

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// The table under construction, in the order the arena keeps within each region.
class Builder {
 public:
  explicit Builder(const ModelConfig& config) : c_(config) {}

  std::vector<Parameter> build() {
    Parameter& word = matrix("embeddings.word.weight", c_.vocab, c_.hidden, Split::rows);
    word.zero_row = 1;
    word.words = true;
    matrix("embeddings.position.weight", c_.positions, c_.hidden, Split::none).zero_row = 1;
    matrix("embeddings.token_type.weight", 1, c_.hidden, Split::none);
    for (std::int64_t i = 0; i <= 2 * c_.layers; ++i) norm(norm_name(c_, i));
    for (std::int64_t i = 0; i < c_.layers; ++i) layer("layers." + std::to_string(i) + ".");
    matrix("head.dense.weight", c_.hidden, c_.hidden, Split::none);
    vector("head.dense.bias", c_.hidden, Split::none);
    norm("head.norm");
    vector("head.bias", c_.vocab, Split::columns).words = true;
    return std::move(table_);
  }

 private:
  void layer(const std::string& at) {
    const char* previous = nullptr;
    for (const char* name : {"query", "key", "value"}) {
      const std::string full = at + "attention." + name;
      matrix(full + ".weight", c_.hidden, c_.hidden, Split::rows).packed = previous != nullptr;
      previous = name;
    }
    previous = nullptr;
    for (const char* name : {"query", "key", "value"}) {
      vector(at + "attention." + name + ".bias", c_.hidden, Split::columns).packed =
          previous != nullptr;
      previous = name;
    }
    matrix(at + "attention.output.weight", c_.hidden, c_.hidden, Split::columns);
    vector(at + "attention.output.bias", c_.hidden, Split::none);
    matrix(at + "ffn.in.weight", c_.ffn, c_.hidden, Split::rows);
    vector(at + "ffn.in.bias", c_.ffn, Split::columns);
    matrix(at + "ffn.out.weight", c_.hidden, c_.ffn, Split::columns);
    vector(at + "ffn.out.bias", c_.hidden, Split::none);
  }

  Parameter& matrix(const std::string& name, std::int64_t rows, std::int64_t cols, Split split) {
    Parameter p;
    p.name = name;
    p.init_stddev = c_.init_stddev;
    p.rows = rows;
    p.cols = cols;
    p.split = split;
    table_.push_back(p);
    return table_.back();
  }

  Parameter& vector(const std::string& name, std::int64_t cols, Split split, float value = 0) {
    Parameter& p = matrix(name, 1, cols, split);
    p.matrix = false;
    p.init_stddev = 0;
    p.init_value = value;
    return p;
  }

  void norm(const std::string& name) {
    vector(name + ".weight", c_.hidden, Split::none, 1);
    vector(name + ".bias", c_.hidden, Split::none);
  }

  const ModelConfig& c_;
  std::vector<Parameter> table_;
};

}  // namespace

std::string norm_name(const ModelConfig& c, std::int64_t index) {
  const auto layer = [](std::int64_t i) { return "layers." + std::to_string(i); };
  const bool after_attention = index % 2 == 1;
  if (c.norm == NormPlacement::post) {
    if (index == 0) return "embeddings.norm";
    return layer((index - 1) / 2) + (after_attention ? ".attention.norm" : ".ffn.norm");
  }
  // Pre-LN: the norm after a half-block is the one that opens the next half-block.
  if (index == 2 * c.layers) return "final_norm";
  return layer(index / 2) + (after_attention ? ".ffn.norm" : ".attention.norm");
}

ParameterTable::ParameterTable(const ModelConfig& config, int tensor_size, int tensor_rank,
                               std::int64_t vocabulary_unit)
    : parameters_(Builder(config).build()) {
  const auto must_divide = [&](std::int64_t value, const char* what) {
    if (value % tensor_size != 0)
      throw ConfigError("parallel.tensor = " + std::to_string(tensor_size) + " does not divide " +
                        what + " = " + std::to_string(value) + "; choose a divisor");
  };
  must_divide(config.heads, "model.heads");
  must_divide(config.ffn, "model.ffn");
  place(tensor_size, tensor_rank, vocabulary_unit);
  cut_into_buckets(config.layers);
}

void ParameterTable::place(int tensor_size, int tensor_rank, std::int64_t vocabulary_unit) {
  std::int64_t unit = 1;
  const auto part = [&](std::int64_t total, std::int64_t& begin, std::int64_t& local,
                        std::int64_t& valid) {
    local = round_up((total + tensor_size - 1) / tensor_size, unit);
    begin = local * tensor_rank;
    valid = std::clamp<std::int64_t>(total - begin, 0, local);
  };
  for (Parameter& p : parameters_) {
    p.local_rows = p.valid_rows = p.rows;
    p.local_cols = p.valid_cols = p.cols;
    unit = p.words ? vocabulary_unit : 1;
    if (p.split == Split::rows) part(p.rows, p.row_begin, p.local_rows, p.valid_rows);
    if (p.split == Split::columns) part(p.cols, p.col_begin, p.local_cols, p.valid_cols);
  }
  std::int64_t at = 0;
  for (const bool matrices : {true, false}) {
    for (Parameter& p : parameters_) {
      if (p.matrix != matrices) continue;
      p.offset = p.packed ? at : round_up(at, kAlign);
      at = p.offset + p.local_size();
    }
    at = round_up(at, kTile);
    if (matrices) matrices_end_ = at;
  }
  size_ = at;
}

const Parameter& ParameterTable::find(const std::string& name) const {
  for (const Parameter& p : parameters_)
    if (p.name == name) return p;
  throw InternalError("no parameter named " + name);
}

// Embeddings; the layers' matrices, the head's dense one with the last of them; all vectors.
void ParameterTable::cut_into_buckets(std::int64_t layers) {
  const auto layer_begin = [&](std::int64_t i) {
    return find("layers." + std::to_string(i) + ".attention.query.weight").offset;
  };
  buckets_.push_back({matrices_end_, size_, -1});
  std::int64_t end = matrices_end_;
  for (std::int64_t layer = layers - 1; layer >= 0; --layer) {
    const std::int64_t begin = layer_begin(layer);
    if (layer > 0 && end - begin < kBucketElements) continue;
    buckets_.push_back({begin, end, layer});
    end = begin;
  }
  buckets_.push_back({0, end, -1});
  std::ranges::reverse(buckets_);
}

std::vector<std::int64_t> ParameterTable::shard_starts(const Bucket& bucket, int data_size) {
  const std::int64_t size = bucket.end - bucket.begin;
  std::vector<std::int64_t> starts{0};
  for (int r = 1; r < data_size; ++r) {
    const std::int64_t fair = bucket.begin + size * r / data_size;
    starts.push_back(std::min(round_up(fair, kTile) - bucket.begin, size));
  }
  starts.push_back(size);
  return starts;
}

std::vector<ShardSlice> ParameterTable::shard(int data_size, int data_rank) const {
  std::vector<ShardSlice> slices;
  std::int64_t at = 0;
  for (const Bucket& bucket : buckets_) {
    const auto starts = shard_starts(bucket, data_size);
    const auto r = static_cast<std::size_t>(data_rank);
    slices.push_back({bucket.begin + starts[r], bucket.begin + starts[r + 1], at});
    at += starts[r + 1] - starts[r];
  }
  return slices;
}

std::int64_t ParameterTable::logical_size() const {
  std::int64_t total = 0;
  for (const Parameter& p : parameters_) total += p.rows * p.cols;
  return total;
}

std::vector<ParameterRun> ParameterTable::runs(const Parameter& p, std::int64_t begin,
                                               std::int64_t end) {
  std::vector<ParameterRun> found;
  const auto add = [&](std::int64_t arena, std::int64_t logical, std::int64_t count) {
    const std::int64_t from = std::max(arena, begin), to = std::min(arena + count, end);
    if (from < to) found.push_back({from, logical + (from - arena), to - from});
  };
  if (p.valid_rows == 0 || p.valid_cols == 0) return found;
  if (p.local_cols == p.cols) {  // whole rows: one run
    add(p.offset, p.row_begin * p.cols, p.valid_rows * p.cols);
    return found;
  }
  for (std::int64_t row = 0; row < p.valid_rows; ++row)
    add(p.offset + row * p.local_cols, (p.row_begin + row) * p.cols + p.col_begin, p.valid_cols);
  return found;
}

ModelViews make_views(const ModelConfig& config, const ParameterTable& table, void* matrices,
                      DType dtype, float* vectors) {
  const auto matrix_at = [&](const std::string& name) -> TensorView {
    const Parameter& p = table.find(name);
    auto* bytes = static_cast<std::byte*>(matrices) +
                  p.offset * static_cast<std::int64_t>(demist::size_of(dtype));
    return {bytes, dtype, p.local_rows, p.local_cols, p.local_cols};
  };
  const auto vector_at = [&](const std::string& name, std::int64_t repeat = 1) {
    const Parameter& p = table.find(name);
    return std::span<float>(vectors + (p.offset - table.matrices_end()),
                            static_cast<std::size_t>(p.local_cols * repeat));
  };
  const auto norm_at = [&](const std::string& name) {
    return NormViews{vector_at(name + ".weight"), vector_at(name + ".bias")};
  };
  ModelViews views;
  views.word = matrix_at("embeddings.word.weight");
  views.position = matrix_at("embeddings.position.weight");
  views.type = matrix_at("embeddings.token_type.weight");
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    LayerViews layer;
    layer.qkv = matrix_at(at + "attention.query.weight");  // key and value are packed behind it
    layer.qkv.rows *= 3;
    layer.qkv_bias = vector_at(at + "attention.query.bias", 3);
    layer.output = matrix_at(at + "attention.output.weight");
    layer.output_bias = vector_at(at + "attention.output.bias");
    layer.ffn_in = matrix_at(at + "ffn.in.weight");
    layer.ffn_in_bias = vector_at(at + "ffn.in.bias");
    layer.ffn_out = matrix_at(at + "ffn.out.weight");
    layer.ffn_out_bias = vector_at(at + "ffn.out.bias");
    views.layers.push_back(layer);
  }
  for (std::int64_t i = 0; i <= 2 * config.layers; ++i)
    views.norms.push_back(norm_at(norm_name(config, i)));
  views.head_dense = matrix_at("head.dense.weight");
  views.head_dense_bias = vector_at("head.dense.bias");
  views.head_norm = norm_at("head.norm");
  views.head_bias = vector_at("head.bias");
  return views;
}

}  // namespace demist
