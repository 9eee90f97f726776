// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include "kernels/cpu/isa/attention_head.hpp"
#include "kernels/cpu/isa/kernels.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

constexpr std::int64_t kTileQueries = 32;

// What one thread works in.
struct ForwardTiles {
  Word *rows, *keys, *values;  // row words of one operand; packed keys and values
  Word *queries, *probabilities;
  float *scores, *sums;
  std::uint16_t* draws;

  ForwardTiles(Arena& arena, const HeadShape& shape) {
    const std::int64_t operand = shape.padded_cols * shape.row_words;
    rows = arena.take<Word>(operand);
    keys = arena.take<Word>(operand);
    values = arena.take<Word>(operand);
    queries = arena.take<Word>(kTileQueries * shape.row_words);
    probabilities = arena.take<Word>(kTileQueries * shape.key_stride);
    scores = arena.take<float>(kTileQueries * shape.key_stride);
    sums = arena.take<float>(kTileQueries * shape.padded_dim);
    draws = arena.take<std::uint16_t>(round_up(shape.padded_cols, kDrawsPerGroup));
  }
};

// Softmax of one row of scores over `panels`: writes e^(score - max), without the dropped elements,
// as operand words, and returns what turns them into probabilities.
struct RowSoftmax {
  float lse;
  float inverse_sum;
};

template <class W>
RowSoftmax softmax_row(Word* out, const float* scores, float scale, const KeyRange& panels,
                       const std::uint16_t* draws, std::uint32_t threshold) {
  Vec largest = broadcast(-__builtin_inff());
  for (std::int64_t k = panels.begin; k < panels.end; k += kLanes)
    largest = max(largest, load(scores + k));
  const float scale2 = scale * kLog2E, offset = horizontal_max(largest) * scale2;
  const VecInt limit = static_cast<std::int32_t>(threshold) - VecInt{};
  Vec total[2] = {};
  for (std::int64_t k = panels.begin; k < panels.end; k += kPanel) {
    Vec p[2];
    for (int v = 0; v < 2; ++v) {
      p[v] = exp2(load(scores + k + v * kLanes) * scale2 - offset);
      total[v] += p[v];
      if (!draws) continue;
      VecHalf half;
      std::memcpy(&half, draws + k + v * kLanes, sizeof(half));
      p[v] = (VecInt)widen(half) < limit ? Vec{} : p[v];
    }
    W::store_row(out + k / W::kPerWord, p[0], p[1]);
  }
  const float sum = horizontal_sum(total[0] + total[1]);
  return {offset * kLn2 + __builtin_logf(sum), 1.0f / sum};
}

template <class W>
class ForwardHead {
 public:
  using S = typename W::Stored;
  ForwardHead(const ForwardTiles& tiles, const HeadShape& shape, const Attention& op,
              std::int64_t sequence, std::int64_t head)
      : tiles_(tiles), shape_(shape), op_(op), sequence_(sequence), head_(head) {}

  void run(const TensorView& out, float* lse, const ConstTensorView& qkv) const {
    pack_rows<W>(tiles_.rows, shape_.row_words, shape_.padded_cols, part(qkv, 1));
    pack_transposed(tiles_.keys, tiles_.rows, shape_.padded_cols, shape_.row_words);
    pack_rows<W>(tiles_.rows, shape_.row_words, shape_.padded_cols, part(qkv, 2));
    pack_panels<W>(tiles_.values, tiles_.rows, shape_.padded_cols, shape_.row_words);
    const ConstTensorView queries = part(qkv, 0);
    for (std::int64_t first = 0; first < shape_.cols; first += kTileQueries) {
      const std::int64_t left = shape_.cols - first;
      const std::int64_t count = left < kTileQueries ? left : kTileQueries;
      query_tile(out, lse, queries.row_slice(first, count), first);
    }
  }

 private:
  ConstTensorView part(const ConstTensorView& qkv, int which) const {
    return head_part(qkv, op_, sequence_, which, head_);
  }

  void query_tile(const TensorView& out, float* lse, const ConstTensorView& queries,
                  std::int64_t first) const {
    constexpr int kPerWord = W::kPerWord;
    const std::int64_t rows = round_up(queries.rows, kTileRows);
    const KeyRange panels = panels_of(op_, sequence_, first, queries.rows);
    pack_rows<W>(tiles_.queries, shape_.row_words, rows, queries);
    tile_product<W>(
        tiles_.scores + panels.begin, shape_.key_stride, rows, panels.end - panels.begin,
        {tiles_.queries, shape_.row_words, 1},
        {tiles_.keys + panels.begin * shape_.row_words, shape_.row_words, 0, shape_.row_words},
        false);
    float factor[kTileQueries];
    for (std::int64_t r = 0; r < rows; ++r) factor[r] = softmax(lse, first, r, panels);
    tile_product<W>(
        tiles_.sums, shape_.padded_dim, rows, shape_.padded_dim,
        {tiles_.probabilities + panels.begin / kPerWord, shape_.key_stride / kPerWord, 1},
        {tiles_.values, shape_.padded_cols / kPerWord, panels.begin / kPerWord,
         (panels.end - panels.begin) / kPerWord},
        false);
    store_rows(out, factor, first, queries.rows);
  }

  // Probabilities of one row of the tile; returns the factor of its sums, 0 without keys.
  float softmax(float* lse, std::int64_t first, std::int64_t r, const KeyRange& panels) const {
    constexpr int kPerWord = W::kPerWord;
    const std::int64_t query = first + r;
    const KeyRange keys = keys_of(op_, sequence_, query);
    float* const scores = tiles_.scores + r * shape_.key_stride;
    Word* const probabilities = tiles_.probabilities + r * shape_.key_stride / kPerWord;
    if (keys.empty()) {
      std::memset(probabilities + panels.begin / kPerWord, 0,
                  static_cast<std::size_t>((panels.end - panels.begin) / kPerWord) * sizeof(Word));
      if (query < shape_.cols) lse[query] = 0.0f;
      return 0.0f;
    }
    mask_scores(scores, panels, keys);
    const bool drop = op_.dropout.active();
    if (drop) draw_keys(tiles_.draws, op_, sequence_, head_, query, panels);
    const RowSoftmax row = softmax_row<W>(probabilities, scores, shape_.scale, panels,
                                          drop ? tiles_.draws : nullptr, op_.dropout.threshold());
    lse[query] = row.lse;
    return drop ? row.inverse_sum * op_.dropout.keep_scale() : row.inverse_sum;
  }

  void store_rows(const TensorView& out, const float* factor, std::int64_t first,
                  std::int64_t count) const {
    for (std::int64_t r = 0; r < count; ++r) {
      S* const to = row<S>(out, first + r);
      const float* const from = tiles_.sums + r * shape_.padded_dim;
      for_lanes(shape_.dim, [&](std::int64_t i, auto lanes) {
        store(to + i, load(from + i) * factor[r], lanes);
      });
    }
  }

  const ForwardTiles& tiles_;
  const HeadShape& shape_;
  const Attention& op_;
  std::int64_t sequence_, head_;
};

template <class W>
void forward(const TensorView& out, const TensorView& lse, const ConstTensorView& qkv,
             const Attention& op) {
  const HeadShape shape(op, W::kPerWord);
  for_each_head<ForwardTiles>(
      op, shape, [&](const ForwardTiles& tiles, std::int64_t sequence, std::int64_t head) {
        const std::int64_t first = sequence * op.grid.cols;
        const TensorView rows =
            out.row_slice(first, op.grid.cols).col_slice(head * op.head_dim, op.head_dim);
        float* const row_lse = static_cast<float*>(lse.data) + head * lse.ld + first;
        ForwardHead<W>(tiles, shape, op, sequence, head).run(rows, row_lse, qkv);
      });
}

}  // namespace

// Forward: scores of 32 queries against all their keys at a time, a plain softmax on whole rows.
void attention_forward(TensorView out, TensorView lse, ConstTensorView qkv, const Attention& op) {
  if (qkv.dtype == DType::f32)
    forward<FloatWords<float>>(out, lse, qkv, op);
  else
    forward<FloatWords<bf16>>(out, lse, qkv, op);
}

#ifdef __AVX512BF16__
void attention_forward_of_pairs(TensorView out, TensorView lse, ConstTensorView qkv,
                                const Attention& op) {
  if (qkv.dtype == DType::f32) return attention_forward(out, lse, qkv, op);
  forward<Bf16Pairs>(out, lse, qkv, op);
}
#endif

}  // namespace demist::cpu::DEMIST_ISA
