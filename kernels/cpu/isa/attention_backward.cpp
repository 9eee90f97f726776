// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include "kernels/cpu/isa/attention_head.hpp"
#include "kernels/cpu/isa/kernels.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

// Queries are taken in blocks, over which dK and dV are summed, and in tiles, whose scores stay in
// the first-level cache.
constexpr std::int64_t kBlockQueries = 128;
constexpr std::int64_t kTileQueries = 16;

// What one thread works in. "Right" operands are packed for products over keys or over dimensions.
struct BackwardTiles {
  Word* rows;                         // row words of keys, then of values
  Word *keys_right, *keys_over_keys;  // K^T for the scores, K for dQ
  Word* values_right;                 // V^T for dP
  Word *queries, *dout;               // row words of one block
  Word *queries_over_queries, *dout_over_queries;
  Word *probabilities, *dscores;   // [queries / per word][keys]: left operands of dV and dK
  Word* dscore_rows;               // [queries][keys / per word]: left operand of dQ
  float *scores, *dprobabilities;  // one tile
  float *dqueries, *dkeys, *dvalues;
  float* delta;
  std::uint16_t* draws;  // [per word][keys]

  BackwardTiles(Arena& arena, const HeadShape& shape) {
    const std::int64_t operand = shape.padded_cols * shape.row_words;
    const std::int64_t block = kBlockQueries * shape.row_words;
    const std::int64_t square = kBlockQueries * shape.key_stride;
    for (Word** p : {&rows, &keys_right, &keys_over_keys, &values_right})
      *p = arena.take<Word>(operand);
    for (Word** p : {&queries, &dout, &queries_over_queries, &dout_over_queries})
      *p = arena.take<Word>(block);
    for (Word** p : {&probabilities, &dscores, &dscore_rows}) *p = arena.take<Word>(square);
    for (float** p : {&scores, &dprobabilities})
      *p = arena.take<float>(kTileQueries * shape.key_stride);
    dqueries = arena.take<float>(kBlockQueries * shape.padded_dim);
    for (float** p : {&dkeys, &dvalues})
      *p = arena.take<float>(shape.padded_cols * shape.padded_dim);
    delta = arena.take<float>(kBlockQueries);
    draws = arena.take<std::uint16_t>(2 * round_up(shape.padded_cols, kDrawsPerGroup));
  }
};

// The constants of one query row.
struct QueryRow {
  float lse2, delta;           // lse2 = lse / ln 2
  const std::uint16_t* draws;  // null: nothing is dropped
};

// A tile's elements of kPerWord neighbouring queries over `panels`:
//   P = e^(scale s - lse), M = 0 where dropped else 1;  probabilities = M P (without keep_scale)
//   dscores = P (M keep_scale dP - delta)               (without the scale of the scores)
class ScoreGradient {
 public:
  ScoreGradient(float scale, const Dropout& dropout)
      : scale_(scale * kLog2E),
        limit_(static_cast<std::int32_t>(dropout.threshold()) - VecInt{}),
        keep_(broadcast(dropout.active() ? dropout.keep_scale() : 1.0f)) {}

  // kPanel elements at key k of one row.
  [[gnu::always_inline]] inline void operator()(Vec (&p)[2], Vec (&ds)[2], const float* scores,
                                                const float* dprobabilities, const QueryRow& query,
                                                std::int64_t k) const {
    for (int v = 0; v < 2; ++v) {
      const std::int64_t i = k + v * kLanes;
      p[v] = exp2(load(scores + i) * scale_ - query.lse2);
      Vec dp = load(dprobabilities + i) * keep_;
      Vec kept = p[v];
      if (query.draws) {
        VecHalf half;
        std::memcpy(&half, query.draws + i, sizeof(half));
        const VecInt dropped = (VecInt)widen(half) < limit_;
        dp = dropped ? Vec{} : dp;
        kept = dropped ? Vec{} : kept;
      }
      ds[v] = p[v] * (dp - query.delta);
      p[v] = kept;
    }
  }

 private:
  float scale_;
  VecInt limit_;
  Vec keep_;
};

template <class W>
class BackwardHead {
 public:
  using S = typename W::Stored;
  static constexpr int kPerWord = W::kPerWord;

  BackwardHead(const BackwardTiles& tiles, const HeadShape& shape, const Attention& op,
               std::int64_t sequence, std::int64_t head)
      : tiles_(tiles), shape_(shape), op_(op), sequence_(sequence), head_(head) {}

  // lse points at the sequence's first token.
  void run(const TensorView& dqkv, const ConstTensorView& dout, const ConstTensorView& qkv,
           const ConstTensorView& out, const float* lse) const {
    pack_keys_and_values(qkv);
    const auto bytes =
        static_cast<std::size_t>(shape_.padded_cols * shape_.padded_dim) * sizeof(float);
    std::memset(tiles_.dkeys, 0, bytes);
    std::memset(tiles_.dvalues, 0, bytes);
    const ConstTensorView queries = part(qkv, 0);
    for (std::int64_t first = 0; first < shape_.cols; first += kBlockQueries) {
      const std::int64_t left = shape_.cols - first;
      const std::int64_t count = left < kBlockQueries ? left : kBlockQueries;
      row_deltas(dout.row_slice(first, count), out.row_slice(first, count));
      block(queries.row_slice(first, count), dout.row_slice(first, count), lse + first, first);
      store_rows(part(dqkv, 0).row_slice(first, count), tiles_.dqueries, shape_.scale);
    }
    store_rows(part(dqkv, 1), tiles_.dkeys, shape_.scale);
    const float keep = op_.dropout.active() ? op_.dropout.keep_scale() : 1.0f;
    store_rows(part(dqkv, 2), tiles_.dvalues, keep);
  }

 private:
  template <class View>
  View part(const View& qkv, int which) const {
    return head_part(qkv, op_, sequence_, which, head_);
  }

  void pack_keys_and_values(const ConstTensorView& qkv) const {
    const std::int64_t cols = shape_.padded_cols, words = shape_.row_words;
    pack_rows<W>(tiles_.rows, words, cols, part(qkv, 1));
    pack_transposed(tiles_.keys_right, tiles_.rows, cols, words);
    pack_panels<W>(tiles_.keys_over_keys, tiles_.rows, cols, words);
    pack_rows<W>(tiles_.rows, words, cols, part(qkv, 2));
    pack_transposed(tiles_.values_right, tiles_.rows, cols, words);
  }

  // delta = rowsum(dout * out) = rowsum(P dP), so that no row of dP is needed twice.
  void row_deltas(const ConstTensorView& dout, const ConstTensorView& out) const {
    for (std::int64_t r = 0; r < dout.rows; ++r) {
      Vec sum = {};
      const S* const a = row<S>(dout, r);
      const S* const b = row<S>(out, r);
      for_lanes(shape_.dim, [&](std::int64_t i, auto lanes) {
        sum += load(a + i, lanes) * load(b + i, lanes);
      });
      tiles_.delta[r] = horizontal_sum(sum);
    }
  }

  void block(const ConstTensorView& queries, const ConstTensorView& dout, const float* lse,
             std::int64_t first) const {
    const std::int64_t rows = round_up(queries.rows, kTileRows), words = shape_.row_words;
    const KeyRange panels = panels_of(op_, sequence_, first, queries.rows);
    pack_rows<W>(tiles_.queries, words, rows, queries);
    pack_rows<W>(tiles_.dout, words, rows, dout);
    pack_panels<W>(tiles_.queries_over_queries, tiles_.queries, rows, words);
    pack_panels<W>(tiles_.dout_over_queries, tiles_.dout, rows, words);
    for (std::int64_t r = 0; r < rows; r += kTileQueries)
      tile(r, rows - r < kTileQueries ? rows - r : kTileQueries, lse, first, panels);
    products_of_block(rows, panels);
  }

  // dQ = dS K for the block; dK += dS^T Q and dV += P^T dO.
  void products_of_block(std::int64_t rows, const KeyRange& panels) const {
    const std::int64_t dim = shape_.padded_dim, stride = shape_.key_stride;
    const std::int64_t keys = panels.end - panels.begin;
    tile_product<W>(tiles_.dqueries, dim, rows, dim,
                    {tiles_.dscore_rows + panels.begin / kPerWord, stride / kPerWord, 1},
                    {tiles_.keys_over_keys, shape_.padded_cols / kPerWord, panels.begin / kPerWord,
                     keys / kPerWord},
                    false);
    const std::int64_t steps = rows / kPerWord;
    tile_product<W>(tiles_.dkeys + panels.begin * dim, dim, keys, dim,
                    {tiles_.dscores + panels.begin, 1, stride},
                    {tiles_.queries_over_queries, steps, 0, steps}, true);
    tile_product<W>(tiles_.dvalues + panels.begin * dim, dim, keys, dim,
                    {tiles_.probabilities + panels.begin, 1, stride},
                    {tiles_.dout_over_queries, steps, 0, steps}, true);
  }

  // Fills rows [begin, begin + rows) of the block's probabilities and dscores.
  void tile(std::int64_t begin, std::int64_t rows, const float* lse, std::int64_t first,
            const KeyRange& panels) const {
    const std::int64_t words = shape_.row_words, keys = panels.end - panels.begin;
    const auto product = [&](float* to, const Word* left, const Word* right) {
      tile_product<W>(to + panels.begin, shape_.key_stride, rows, keys,
                      {left + begin * words, words, 1},
                      {right + panels.begin * words, words, 0, words}, false);
    };
    product(tiles_.scores, tiles_.queries, tiles_.keys_right);
    product(tiles_.dprobabilities, tiles_.dout, tiles_.values_right);
    const ScoreGradient gradient(shape_.scale, op_.dropout);
    const std::int64_t draw_stride = round_up(shape_.padded_cols, kDrawsPerGroup);
    for (std::int64_t r = 0; r < rows; r += kPerWord) {
      QueryRow query[kPerWord];
      for (int i = 0; i < kPerWord; ++i)
        query[i] = query_row(begin, r + i, lse, first, panels, tiles_.draws + i * draw_stride);
      store_gradient(gradient, query, begin, r, panels);
    }
  }

  // Prepares row r of a tile: masks its scores, draws its dropout.
  QueryRow query_row(std::int64_t begin, std::int64_t r, const float* lse, std::int64_t first,
                     const KeyRange& panels, std::uint16_t* draws) const {
    const std::int64_t query = first + begin + r;
    KeyRange keys = keys_of(op_, sequence_, query);
    if (keys.empty()) keys = {panels.end, panels.end};  // all masked: the row is 0
    mask_scores(tiles_.scores + r * shape_.key_stride, panels, keys);
    if (query >= shape_.cols) return {0.0f, 0.0f, nullptr};
    const bool drop = op_.dropout.active();
    if (drop) draw_keys(draws, op_, sequence_, head_, query, panels);
    return {lse[begin + r] * kLog2E, tiles_.delta[begin + r], drop ? draws : nullptr};
  }

  void store_gradient(const ScoreGradient& gradient, const QueryRow (&query)[kPerWord],
                      std::int64_t begin, std::int64_t r, const KeyRange& panels) const {
    const std::int64_t stride = shape_.key_stride;
    for (std::int64_t k = panels.begin; k < panels.end; k += kPanel) {
      Vec p[kPerWord][2], ds[kPerWord][2];
      for (int i = 0; i < kPerWord; ++i) {
        const std::int64_t offset = (r + i) * stride;
        gradient(p[i], ds[i], tiles_.scores + offset, tiles_.dprobabilities + offset, query[i], k);
        W::store_row(tiles_.dscore_rows + ((begin + r + i) * stride + k) / kPerWord, ds[i][0],
                     ds[i][1]);
      }
      const std::int64_t at = (begin + r) / kPerWord * stride + k;
      W::store_columns(tiles_.probabilities + at, p);
      W::store_columns(tiles_.dscores + at, ds);
    }
  }

  void store_rows(const TensorView& to, const float* from, float factor) const {
    for (std::int64_t r = 0; r < to.rows; ++r) {
      S* const out = row<S>(to, r);
      const float* const in = from + r * shape_.padded_dim;
      for_lanes(shape_.dim,
                [&](std::int64_t i, auto lanes) { store(out + i, load(in + i) * factor, lanes); });
    }
  }

  const BackwardTiles& tiles_;
  const HeadShape& shape_;
  const Attention& op_;
  std::int64_t sequence_, head_;
};

template <class W>
void backward(const TensorView& dqkv, const ConstTensorView& dout, const ConstTensorView& qkv,
              const ConstTensorView& out, const ConstTensorView& lse, const Attention& op) {
  const HeadShape shape(op, W::kPerWord);
  for_each_head<BackwardTiles>(
      op, shape, [&](const BackwardTiles& tiles, std::int64_t sequence, std::int64_t head) {
        const std::int64_t first = sequence * op.grid.cols;
        const auto own = [&](const ConstTensorView& x) {
          return x.row_slice(first, op.grid.cols).col_slice(head * op.head_dim, op.head_dim);
        };
        const float* const row_lse = static_cast<const float*>(lse.data) + head * lse.ld + first;
        BackwardHead<W>(tiles, shape, op, sequence, head)
            .run(dqkv, own(dout), qkv, own(out), row_lse);
      });
}

}  // namespace

// Backward (Dao et al. 2022, algorithm 4, with whole rows of scores): probabilities again from lse.
void attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                        ConstTensorView out, ConstTensorView lse, const Attention& op) {
  if (qkv.dtype == DType::f32)
    backward<FloatWords<float>>(dqkv, dout, qkv, out, lse, op);
  else
    backward<FloatWords<bf16>>(dqkv, dout, qkv, out, lse, op);
}

#ifdef __AVX512BF16__
void attention_backward_of_pairs(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                                 ConstTensorView out, ConstTensorView lse, const Attention& op) {
  if (qkv.dtype == DType::f32) return attention_backward(dqkv, dout, qkv, out, lse, op);
  backward<Bf16Pairs>(dqkv, dout, qkv, out, lse, op);
}
#endif

}  // namespace demist::cpu::DEMIST_ISA
