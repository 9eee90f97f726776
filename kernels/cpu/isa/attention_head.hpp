// One head of one sequence: its sizes, its rows of the tensors, its keys and its dropped elements.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cpu/isa/philox_lanes.hpp"
#include "kernels/cpu/isa/tile_products.hpp"
#include "kernels/cpu/isa/vec.hpp"
#include "kernels/types.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) {
  return (n + step - 1) / step * step;
}

// Sizes of one head, padded so that no product has a tail. Padding holds zeros.
struct HeadShape {
  std::int64_t cols, dim;                // T and head_dim
  std::int64_t padded_cols, padded_dim;  // multiples of kPanel and of kLanes
  std::int64_t row_words;                // of one query, key or value
  float scale;

  HeadShape(const Attention& op, int per_word)
      : cols(op.grid.cols),
        dim(op.head_dim),
        padded_cols(round_up(cols, kPanel)),
        padded_dim(round_up(dim, kLanes)),
        row_words(padded_dim / per_word),
        scale(1.0f / __builtin_sqrtf(static_cast<float>(op.head_dim))) {}
};

// Cuts one block of memory into 64-byte aligned arrays; without memory, measures how much it takes.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}
  template <class T>
  T* take(std::int64_t count) {
    std::byte* const p = base_ + used_;
    used_ += round_up(count * static_cast<std::int64_t>(sizeof(T)), 64);
    return base_ ? reinterpret_cast<T*>(p) : nullptr;
  }
  std::int64_t used() const { return used_; }

 private:
  std::byte* base_;
  std::int64_t used_ = 0;
};

// Calls body(tiles, sequence, head) for every pair, on all threads, each with Tiles of its own. A
// pair's result depends on nothing but the pair.
template <class Tiles, class Body>
void for_each_head(const Attention& op, const HeadShape& shape, Body&& body) {
  Arena measure(nullptr);
  Tiles(measure, shape);
  const std::int64_t bytes = round_up(measure.used(), 4096);
  Buffer<std::byte> memory(static_cast<std::size_t>(bytes * omp_get_max_threads()));
#pragma omp parallel
  {
    Arena arena(memory.data() + bytes * omp_get_thread_num());
    const Tiles tiles(arena, shape);
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < op.grid.rows * op.heads; ++i)
      body(tiles, i / op.heads, i % op.heads);
  }
}

// The rows of sequence `sequence` and the columns of one head of q (part 0), k (1) or v (2).
template <class View>
inline View head_part(const View& qkv, const Attention& op, std::int64_t sequence, int part,
                      std::int64_t head) {
  return qkv.row_slice(sequence * op.grid.cols, op.grid.cols)
      .col_slice((part * op.heads + head) * op.head_dim, op.head_dim);
}

// Keys [begin, end) of one query; none for the padding rows of a tile.
struct KeyRange {
  std::int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

inline KeyRange keys_of(const Attention& op, std::int64_t sequence, std::int64_t query) {
  if (query >= op.grid.cols) return {};
  const auto token = static_cast<std::size_t>(sequence * op.grid.cols + query);
  return {op.keys.begin.data()[token], op.keys.end.data()[token]};
}

// The whole panels that hold every key of queries [first, first + count).
inline KeyRange panels_of(const Attention& op, std::int64_t sequence, std::int64_t first,
                          std::int64_t count) {
  KeyRange all{op.grid.cols, 0};
  for (std::int64_t i = 0; i < count; ++i) {
    const KeyRange keys = keys_of(op, sequence, first + i);
    if (keys.empty()) continue;
    all.begin = keys.begin < all.begin ? keys.begin : all.begin;
    all.end = keys.end > all.end ? keys.end : all.end;
  }
  if (all.empty()) return {};
  return {all.begin / kPanel * kPanel, round_up(all.end, kPanel)};
}

// Scores of keys that the query may not see, inside the panels, become -infinity.
inline void mask_scores(float* scores, const KeyRange& panels, const KeyRange& keys) {
  const float minus_infinity = -__builtin_inff();
  for (std::int64_t k = panels.begin; k < keys.begin; ++k) scores[k] = minus_infinity;
  for (std::int64_t k = keys.end; k < panels.end; ++k) scores[k] = minus_infinity;
}

// Draws of the keys in `panels` for one query.
inline void draw_keys(std::uint16_t* draws, const Attention& op, std::int64_t sequence,
                      std::int64_t head, std::int64_t query, const KeyRange& panels) {
  const auto position = static_cast<std::uint32_t>(query) * Attention::kMaxHeads +
                        static_cast<std::uint32_t>(op.first_head + head);
  const DropoutRow dropped(op.dropout.key, position, op.grid.sample.data()[sequence]);
  for (std::int64_t g = panels.begin / kDrawsPerGroup; g * kDrawsPerGroup < panels.end; ++g)
    dropped.draws(*reinterpret_cast<std::uint16_t(*)[kDrawsPerGroup]>(draws + g * kDrawsPerGroup),
                  g);
}

// e^x for x <= 88, within 2 units in the last place; 0 below the smallest normal result. Reduction
// and polynomial of Cephes' expf (Moshier 1984).
inline Vec exponential(Vec x) {
  const Vec clamped = max(broadcast(-87.0f), x);  // keeps NaN
  const Vec magic = broadcast(0x1.8p23f);         // adding it rounds to an integer in the low bits
  const Vec shifted = clamped * 1.44269504088896341f + magic;
  const Vec n = shifted - magic;
  const Vec r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const VecInt power = (VecInt)p + ((VecInt)shifted << 23);
  return x < -87.0f ? Vec{} : (Vec)power;
}

}  // namespace
}  // namespace demist::cpu::DEMIST_ISA
