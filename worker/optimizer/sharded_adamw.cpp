// SPDX-License-Identifier: Apache-2.0
#include "worker/optimizer/sharded_adamw.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/exact_sum.hpp"
#include "core/parallel_for.hpp"
#include "core/philox.hpp"

namespace demist {
namespace {

// Two standard normals from two words (Box and Muller 1958).
std::pair<double, double> normals(std::uint32_t a, std::uint32_t b) {
  const double radius = std::sqrt(-2 * std::log((a + 1.0) * 0x1.0p-32));
  const double angle = 2 * std::numbers::pi * b * 0x1.0p-32;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

// Of a tensor's elements from `logical` on; four neighbours share a draw.
void fill_with_initial_values(std::span<float> values, const Parameter& p, std::uint64_t key,
                              std::int64_t logical) {
  if (p.init_stddev == 0) {
    std::ranges::fill(values, p.init_value);
    return;
  }
  std::int64_t row = logical / p.cols, col = logical % p.cols;
  std::array<float, 4> four{};  // of one draw: neighbours in a row
  bool drawn = false;
  for (float& value : values) {
    if (!drawn || col % 4 == 0) {
      const Philox4 words =
          draw(key, static_cast<std::uint64_t>(row), static_cast<std::uint32_t>(col / 4));
      for (std::size_t pair = 0; pair < 4; pair += 2) {
        const auto [first, second] = normals(words.v[pair], words.v[pair + 1]);
        four[pair] = static_cast<float>(first);
        four[pair + 1] = static_cast<float>(second);
      }
      drawn = true;
    }
    value = row == p.zero_row ? 0 : p.init_stddev * four[static_cast<std::size_t>(col % 4)];
    if (++col < p.cols) continue;
    col = 0;
    ++row;
  }
}

// Exact, so threads may add in any order. A GPU waits for it.
ExactSum sum_of(std::span<const double> terms) {
  constexpr std::int64_t grain = 1 << 14;
  std::vector<ExactSum> parts(static_cast<std::size_t>(div_ceil(std::ssize(terms), grain)));
  parallel_ranges(std::ssize(terms), grain, [&](std::int64_t begin, std::int64_t end) {
    ExactSum& part = parts[static_cast<std::size_t>(begin / grain)];
    for (std::int64_t i = begin; i < end; ++i) part.add(terms[static_cast<std::size_t>(i)]);
  });
  ExactSum sum;
  for (const ExactSum& part : parts) sum.add(part);
  return sum;
}

}  // namespace

ShardedAdamW::ShardedAdamW(const ModelConfig& model, const ParameterTable& table, Backend& backend,
                           ParallelGroups& groups, DType compute, const OptimizerConfig& config)
    : table_(table), backend_(backend), groups_(groups), compute_(compute), config_(config) {
  slices_ = table.shard(groups.layout.data_size, groups.layout.data_rank);
  for (const ShardSlice& slice : slices_) {
    for (const Parameter& p : table.parameters()) {
      const std::int64_t begin = std::max(p.offset, slice.begin);
      const std::int64_t end = std::min(p.offset + p.local_size(), slice.end);
      if (begin < end) segments_.push_back({&p, begin, end, slice.at + begin - slice.begin});
    }
    shard_size_ += slice.end - slice.begin;
  }
  const auto shard = static_cast<std::size_t>(shard_size_);
  for (Buffer<float>* buffer : {&master_, &m_, &v_}) {
    *buffer = Buffer<float>(shard, backend.memory());
    backend.zero(buffer->data(), buffer->bytes());
  }
  matrices_ = Buffer<std::byte>(static_cast<std::size_t>(table.matrices_end()) * size_of(compute),
                                backend.memory());
  vectors_ = Buffer<float>(static_cast<std::size_t>(table.size() - table.matrices_end()),
                           backend.memory());
  // Every segment may add a part of a tile at either end.
  const std::int64_t tiles = div_ceil(shard_size_, ParameterTable::kTile);
  tiles_ = Buffer<double>(static_cast<std::size_t>(tiles) + 2 * segments_.size(), backend.memory());
  backend.zero(matrices_.data(), matrices_.bytes());
  backend.zero(vectors_.data(), vectors_.bytes());
  weights_ = make_views(model, table, matrices_.data(), compute, vectors_.data());
  state_out_ = backend.make_read_back();
}

std::size_t ShardedAdamW::bytes() const {
  return 3 * master_.bytes() + matrices_.bytes() + vectors_.bytes() + tiles_.bytes();
}

template <class T, class Place>
std::span<T> ShardedAdamW::part(std::span<T> shard, const Place& s) {
  return shard.subspan(static_cast<std::size_t>(s.at), static_cast<std::size_t>(s.end - s.begin));
}

TensorView ShardedAdamW::working(std::int64_t begin, std::int64_t count) {
  if (begin >= table_.matrices_end()) {
    float* data = vectors_.data() + (begin - table_.matrices_end());
    return {data, DType::f32, 1, count, count};
  }
  auto* data = matrices_.data() + begin * static_cast<std::int64_t>(size_of(compute_));
  return {data, compute_, 1, count, count};
}

// Fills a segment's part of `buffer` from the host: fill(run, values of the run). Rows that pad the
// vocabulary are in no run and must be numbers: products take them times zero.
template <class Fill>
void ShardedAdamW::fill_from_host(Buffer<float>& buffer, const Segment& s, Fill&& fill) {
  Buffer<float> host(static_cast<std::size_t>(s.end - s.begin));
  std::ranges::fill(host.span(), 0.0f);
  for (const ParameterRun& run : ParameterTable::runs(*s.parameter, s.begin, s.end))
    fill(run, host.span().subspan(static_cast<std::size_t>(run.arena - s.begin),
                                  static_cast<std::size_t>(run.count)));
  state_out_->hold();
  backend_.upload(part(buffer.span(), s).data(), host.data(), host.bytes());
}

void ShardedAdamW::zero_moments() {
  state_out_->hold();
  backend_.zero(m_.data(), m_.bytes());
  backend_.zero(v_.data(), v_.bytes());
}

void ShardedAdamW::initialize(std::uint64_t seed) {
  for (const Segment& s : segments_) {
    const Parameter& p = *s.parameter;
    const std::uint64_t key = stream_key(seed, "init/" + p.name, 0);
    fill_from_host(master_, s, [&](const ParameterRun& run, std::span<float> values) {
      parallel_ranges(run.count, 4096, [&](std::int64_t from, std::int64_t to) {
        fill_with_initial_values(
            values.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from)), p,
            key, run.logical + from);
      });
    });
  }
  zero_moments();
}

void ShardedAdamW::read(const checkpoint::Checkpoint& from, bool with_moments) {
  using checkpoint::Kind;
  zero_moments();
  for (const Segment& s : segments_) {
    const auto tensor = from.find(s.parameter->name);
    if (!tensor)
      throw CheckpointError(from.directory().string() + " has no tensor " + s.parameter->name);
    const auto fill = [&](Kind kind, Buffer<float>& into) {
      fill_from_host(into, s, [&](const ParameterRun& run, std::span<float> values) {
        from.read({*tensor, kind, run.logical, values});
      });
    };
    fill(Kind::parameter, master_);
    if (!with_moments) continue;
    fill(Kind::adam_m, m_);
    fill(Kind::adam_v, v_);
  }
}

void ShardedAdamW::publish() {
  refresh_working_copy([&](const ShardSlice& s, TensorView work) {
    backend_.convert(work, vector_view(std::span<const float>(part(master_.span(), s))));
  });
}

void ShardedAdamW::copy_state(checkpoint::Snapshot& snapshot) const {
  if (snapshot.copies.empty()) lay_out(snapshot);
  std::size_t i = 0;
  for (const Buffer<float>* buffer : {&master_, &m_, &v_})
    state_out_->copy(snapshot.copies[i++].data(), buffer->data(), buffer->bytes());
  snapshot.arrived = [out = state_out_.get()] { return out->arrived(); };
}

// Buffers for the three values of an element, and what lies where in them.
void ShardedAdamW::lay_out(checkpoint::Snapshot& snapshot) const {
  const std::size_t size = master_.size();
  for (std::size_t i = 0; i < std::size(checkpoint::kKinds); ++i)
    snapshot.copies.emplace_back(size, backend_.host_memory());
  for (const Parameter& p : table_.parameters())
    snapshot.tensors.push_back({p.name, p.rows, p.cols});
  for (const Segment& s : segments_) {
    // Replicated tensors are the same on every tensor-parallel rank: the first one saves them.
    if (s.parameter->split == Split::none && groups_.layout.tensor_rank != 0) continue;
    const auto index = static_cast<std::size_t>(s.parameter - table_.parameters().data());
    for (const ParameterRun& run : ParameterTable::runs(*s.parameter, s.begin, s.end))
      for (const checkpoint::Kind kind : checkpoint::kKinds) {
        const std::span<const float> values =
            snapshot.copies[static_cast<std::size_t>(kind)].span();
        snapshot.pieces.push_back(
            {index, kind, run.logical,
             values.subspan(static_cast<std::size_t>(s.at + run.arena - s.begin),
                            static_cast<std::size_t>(run.count))});
      }
  }
}

// Squares are summed in tiles at fixed places of the arena and the tiles added exactly, so the norm
// does not depend on where the arena is cut into shards.
double ShardedAdamW::gradient_norm(std::span<const float> grad) {
  constexpr std::int64_t tile = ParameterTable::kTile;
  // A tensor that begins or ends inside a tile adds a part of one.
  std::size_t used = 0;
  const auto add = [&](std::span<const float> values) {
    const auto count = static_cast<std::size_t>(div_ceil(std::ssize(values), tile));
    backend_.tile_sum_squares(tiles_.span().subspan(used, count), values);
    used += count;
  };
  for (const Segment& s : segments_) {
    if (s.parameter->split == Split::none && groups_.layout.tensor_rank != 0) continue;
    const std::span<const float> values = part(grad, s);
    const auto border =
        static_cast<std::size_t>(std::min(s.end, div_ceil(s.begin, tile) * tile) - s.begin);
    if (border > 0) add(values.first(border));
    if (border < values.size()) add(values.subspan(border));
  }
  std::vector<double> tiles(used);
  backend_.download(tiles.data(), tiles_.data(), used * sizeof(double));
  ExactSum sum = sum_of(tiles);
  groups_.world->all_reduce_sum(sum.limbs());
  return std::sqrt(sum.value());
}

void ShardedAdamW::update(std::span<const float> grad, float grad_scale, std::int64_t step) {
  const auto t = static_cast<double>(step + 1);
  AdamW op;
  op.lr = static_cast<float>(lr_at(config_.schedule, step));
  op.beta1 = static_cast<float>(config_.beta1);
  op.beta2 = static_cast<float>(config_.beta2);
  op.epsilon = static_cast<float>(config_.epsilon);
  op.bias_correction1 = static_cast<float>(1 / (1 - std::pow(config_.beta1, t)));
  op.bias_correction2 = static_cast<float>(1 / (1 - std::pow(config_.beta2, t)));
  op.grad_scale = grad_scale;
  state_out_->hold();  // a save's copy leaves under the forward and backward pass before
  refresh_working_copy([&](const ShardSlice& s, TensorView work) {
    const bool matrices = s.begin < table_.matrices_end();
    op.weight_decay = matrices ? static_cast<float>(config_.weight_decay) : 0.0f;
    backend_.adamw(part(master_.span(), s), part(m_.span(), s), part(v_.span(), s), part(grad, s),
                   work, op);
  });
}

// Calls body(slice, its part of the working copy) for each, once a bucket: what pads its tensors is
// zero and stays so. A bucket travels to the other ranks under the work on the next one.
template <class Body>
void ShardedAdamW::refresh_working_copy(Body&& body) {
  for (std::size_t b = 0; b < slices_.size(); ++b) {
    const ShardSlice& s = slices_[b];
    if (s.begin < s.end) body(s, working(s.begin, s.end - s.begin));
    gather_working_copy(table_.buckets()[b]);
  }
  groups_.data->join();
}

void ShardedAdamW::gather_working_copy(const Bucket& bucket) {
  if (groups_.layout.data_size == 1 || bucket.begin == bucket.end) return;
  const TensorView all = working(bucket.begin, bucket.end - bucket.begin);
  const auto element = static_cast<std::int64_t>(size_of(all.dtype));
  std::vector<std::int64_t> starts = ParameterTable::shard_starts(bucket, groups_.layout.data_size);
  for (std::int64_t& start : starts) start *= element;  // bytes
  groups_.data->detach();
  groups_.data->all_gather(
      {static_cast<std::byte*>(all.data), static_cast<std::size_t>(starts.back())}, starts);
}

}  // namespace demist
