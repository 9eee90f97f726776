// Products of small matrices that stay in cache: register tiles over packed operands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cpu/isa/vec.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

// Operands are made of 32-bit words: one float (FloatWords), or two bf16 that are neighbours in the
// reduction (Bf16Pairs), whose products are one instruction where the processor has it. A register
// tile is kTileRows x 2 vectors of sums.
typedef std::uint32_t Word;
constexpr int kPanel = 2 * kLanes;
#ifdef __AVX512F__
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif

inline VecUint load_words(const Word* p) {
  VecUint v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void store_words(Word* p, VecUint v) { std::memcpy(p, &v, sizeof(v)); }

// How numbers stored as S become operands.
template <class S>
struct FloatWords {
  using Stored = S;
  static constexpr int kPerWord = 1;
  static inline Vec dot(Vec sum, Word a, VecUint b) {
    return sum + (Vec)(a - VecUint{}) * (Vec)b;  // contracted to one fused instruction
  }
  // kPanel neighbours along a row, rounded as S.
  static inline void store_row(Word* out, Vec low, Vec high) {
    store_words(out, (VecUint)rounded(low, static_cast<const S*>(nullptr)));
    store_words(out + kLanes, (VecUint)rounded(high, static_cast<const S*>(nullptr)));
  }
  // The same kPanel columns of kPerWord rows, one word a column.
  static inline void store_columns(Word* out, const Vec (&rows)[1][2]) {
    store_row(out, rows[0][0], rows[0][1]);
  }
  // kLanes neighbours of one row, from storage.
  static inline void load_row(Word* out, const S* in) { store_words(out, (VecUint)load(in)); }
  static inline void load_row(Word* out, const S* in, int count) {
    store_words(out, (VecUint)load(in, count));
  }
  // The words of kLanes columns of row `row` of row words that are `stride` words apart.
  static inline VecUint column_words(const Word* rows, std::int64_t stride, std::int64_t row,
                                     std::int64_t column) {
    return load_words(rows + row * stride + column);
  }
};

#ifdef __AVX512BF16__
struct Bf16Pairs {
  using Stored = bf16;
  static constexpr int kPerWord = 2;
  static inline Vec dot(Vec sum, Word a, VecUint b) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(a - VecUint{}), (__m512bh)b);
  }
  static inline void store_row(Word* out, Vec low, Vec high) {
    store_words(out, (VecUint)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
  }
  static inline void load_row(Word* out, const bf16* in) {
    std::memcpy(out, in, kLanes * sizeof(bf16));
  }
  static inline void load_row(Word* out, const bf16* in, int count) {
    bf16 lanes[kLanes] = {};
    std::memcpy(static_cast<void*>(lanes), in, static_cast<std::size_t>(count) * sizeof(bf16));
    load_row(out, lanes);
  }
  static inline VecUint column_words(const Word* rows, std::int64_t stride, std::int64_t row,
                                     std::int64_t column) {
    VecHalf first, second;
    std::memcpy(&first, rows + 2 * row * stride + column / 2, sizeof(first));
    std::memcpy(&second, rows + (2 * row + 1) * stride + column / 2, sizeof(second));
    return widen(first) | (widen(second) << 16);
  }
  static inline void store_columns(Word* out, const Vec (&rows)[2][2]) {
    for (int v = 0; v < 2; ++v)
      store_words(out + v * kLanes,
                  widen(round_to_bf16(rows[0][v])) | (widen(round_to_bf16(rows[1][v])) << 16));
  }
};
#endif

// The left operand: the word of row r and step s is data[r * row_stride + s * step_stride].
struct LeftWords {
  const Word* data;
  std::int64_t row_stride;
  std::int64_t step_stride;
};

// The right operand, packed: panels of kPanel columns (the last may have kLanes), each
// [steps][columns of the panel]. The product runs over steps [first, first + count).
struct RightPanels {
  const Word* data;
  std::int64_t steps;
  std::int64_t first;
  std::int64_t count;
};

template <class W, int kVecs>
[[gnu::always_inline]] inline void register_tile(float* out, std::int64_t ld, const LeftWords& a,
                                                 const Word* b, std::int64_t steps, bool add) {
  Vec sum[kTileRows][kVecs];
  for (int r = 0; r < kTileRows; ++r)
    for (int v = 0; v < kVecs; ++v) sum[r][v] = add ? load(out + r * ld + v * kLanes) : Vec{};
  for (std::int64_t s = 0; s < steps; ++s) {
    VecUint right[kVecs];
    for (int v = 0; v < kVecs; ++v) right[v] = load_words(b + (s * kVecs + v) * kLanes);
    const Word* const left = a.data + s * a.step_stride;
    for (int r = 0; r < kTileRows; ++r)
      for (int v = 0; v < kVecs; ++v)
        sum[r][v] = W::dot(sum[r][v], left[r * a.row_stride], right[v]);
  }
  for (int r = 0; r < kTileRows; ++r)
    for (int v = 0; v < kVecs; ++v) store(out + r * ld + v * kLanes, sum[r][v]);
}

// out[rows, cols] (leading dimension ld) = or += a b. rows is a multiple of kTileRows, cols of
// kLanes.
template <class W>
void tile_product(float* out, std::int64_t ld, std::int64_t rows, std::int64_t cols,
                  const LeftWords& a, const RightPanels& b, bool add) {
  for (std::int64_t c = 0; c < cols; c += kPanel) {
    const bool whole = c + kPanel <= cols;
    const Word* const panel = b.data + c * b.steps + b.first * (whole ? kPanel : kLanes);
    for (std::int64_t r = 0; r < rows; r += kTileRows) {
      const LeftWords left{a.data + r * a.row_stride, a.row_stride, a.step_stride};
      if (whole)
        register_tile<W, 2>(out + r * ld + c, ld, left, panel, b.count, add);
      else
        register_tile<W, 1>(out + r * ld + c, ld, left, panel, b.count, add);
    }
  }
}

// rows of S (ld apart) -> words [padded_rows][stride], zeros beyond `rows` and beyond `cols`.
template <class W>
void pack_rows(Word* out, std::int64_t stride, std::int64_t padded_rows,
               const ConstTensorView& in) {
  using S = typename W::Stored;
  constexpr std::int64_t kStep = kLanes / W::kPerWord;
  for (std::int64_t r = 0; r < in.rows; ++r) {
    const S* const from = row<S>(in, r);
    Word* const to = out + r * stride;
    std::int64_t c = 0, w = 0;
    for (; c + kLanes <= in.cols; c += kLanes, w += kStep) W::load_row(to + w, from + c);
    if (c < in.cols) W::load_row(to + w, from + c, static_cast<int>(in.cols - c));
  }
  std::memset(out + in.rows * stride, 0,
              static_cast<std::size_t>((padded_rows - in.rows) * stride) * sizeof(Word));
}

// Lanes of a and b in turn: their lower halves, their upper halves.
inline VecUint zip_low(VecUint a, VecUint b) {
#ifdef __AVX512F__
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#else
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#endif
}
inline VecUint zip_high(VecUint a, VecUint b) {
#ifdef __AVX512F__
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                 31);
#else
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#endif
}

// Transposes kLanes x kLanes words: zipping row i with row i + kLanes / 2 moves one bit of the row
// number into the column number; after log2(kLanes) rounds all bits have changed places.
[[gnu::always_inline]] inline void transpose_square(Word* out, std::int64_t out_stride,
                                                    const Word* in, std::int64_t in_stride) {
  constexpr int kHalf = kLanes / 2;
  VecUint from[kLanes], to[kLanes];
  for (int i = 0; i < kLanes; ++i) from[i] = load_words(in + i * in_stride);
  for (int round = 1; round < kLanes; round *= 2) {
    for (int i = 0; i < kHalf; ++i) {
      to[2 * i] = zip_low(from[i], from[i + kHalf]);
      to[2 * i + 1] = zip_high(from[i], from[i + kHalf]);
    }
    for (int i = 0; i < kLanes; ++i) from[i] = to[i];
  }
  for (int i = 0; i < kLanes; ++i) store_words(out + i * out_stride, from[i]);
}

// Row words [rows][stride] -> panels of the transpose: columns = rows, steps = words of a row.
inline void pack_transposed(Word* out, const Word* in, std::int64_t rows, std::int64_t stride) {
  std::int64_t s = 0;
  for (; s + kLanes <= stride; s += kLanes)
    for (std::int64_t r = 0; r < rows; r += kLanes) {
      Word* const panel = out + r / kPanel * kPanel * stride + r % kPanel;
      transpose_square(panel + s * kPanel, kPanel, in + r * stride + s, stride);
    }
  for (; s < stride; ++s)
    for (std::int64_t r = 0; r < rows; ++r)
      out[r / kPanel * kPanel * stride + s * kPanel + r % kPanel] = in[r * stride + s];
}

// Row words [rows][stride] -> panels: columns as in memory, steps = rows / kPerWord.
template <class W>
void pack_panels(Word* out, const Word* in, std::int64_t rows, std::int64_t stride) {
  const std::int64_t cols = stride * W::kPerWord, steps = rows / W::kPerWord;
  for (std::int64_t c = 0; c < cols; c += kPanel) {
    const std::int64_t width = c + kPanel <= cols ? kPanel : kLanes;
    for (std::int64_t s = 0; s < steps; ++s)
      for (std::int64_t i = 0; i < width; i += kLanes)
        store_words(out + c * steps + s * width + i, W::column_words(in, stride, s, c + i));
  }
}

}  // namespace
}  // namespace demist::cpu::DEMIST_ISA
