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
  std::int64_t key_stride;  // from one row of scores to the next: no power of two, for the caches
  float scale;

  HeadShape(const Attention& op, int per_word)
      : cols(op.grid.cols),
        dim(op.head_dim),
        padded_cols(round_up(cols, kPanel)),
        padded_dim(round_up(dim, kLanes)),
        row_words(padded_dim / per_word),
        key_stride(padded_cols + kPanel),
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

// 2^x, relative error below 2e-7; 0 for x below -126 or so (also for -infinity). NaN stays. The
// polynomial is the minimax one of degree 5 for 2^r / 2^r = 1 on [0, 1).
[[gnu::always_inline]] inline Vec exp2(Vec x) {
#ifdef __AVX512F__
  const Vec r = (Vec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF);  // x - floor(x)
#else
  const Vec clamped = max(broadcast(-126.0f), x);
  const Vec n = (Vec)_mm256_floor_ps((__m256)clamped);
  const Vec r = clamped - n;
#endif
  Vec p = r * 1.87757669e-3f + 8.98933969e-3f;
  p = p * r + 5.58263175e-2f;
  p = p * r + 0.240153611f;
  p = p * r + 0.693153083f;
  p = p * r + 0.99999994f;
#ifdef __AVX512F__
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
  const VecInt power = __builtin_convertvector(n, VecInt) << 23;
  return x < -126.0f ? Vec{} : (Vec)((VecInt)p + power);
#endif
}
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

}  // namespace
}  // namespace demist::cpu::DEMIST_ISA
