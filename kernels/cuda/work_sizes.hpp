// How the kernels cut their work into pieces, and the workspace that follows: functions of shapes
// only, and without CUDA, so that memory can be planned on a machine that has none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/tensor.hpp"
#include "kernels/types.hpp"

namespace demist::cuda {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// Rows of a column sum in pieces: at most `most` of them, of at least `least_rows` rows.
struct PieceRule {
  std::int64_t most = 1, least_rows = 1;
  // Of any number of rows up to `rows`; one of them has as many.
  constexpr std::int64_t most_up_to(std::int64_t rows) const {
    return std::min(most, ceil_div(rows, least_rows));
  }
};
struct ColumnPieces {
  std::int64_t piece_rows = 0, count = 0;
  ColumnPieces(std::int64_t rows, PieceRule rule)
      : piece_rows(std::max(ceil_div(rows, rule.most), rule.least_rows)),
        count(ceil_div(rows, piece_rows)) {}
};

constexpr PieceRule kColumnSumPieces{256, 32};
constexpr PieceRule kLayerNormPieces{512, 16};
constexpr std::int64_t kLayerNormSums = 3;  // dgamma, dbeta, dbias
constexpr std::int64_t kCrossEntropyTileColumns = 2048;
constexpr PieceRule cross_entropy_pieces(std::int64_t cols) {
  constexpr std::int64_t wanted_blocks = 1024;  // keeps any device busy
  const std::int64_t tiles = std::max<std::int64_t>(1, ceil_div(cols, kCrossEntropyTileColumns));
  return {std::clamp<std::int64_t>(ceil_div(wanted_blocks, tiles), 16, 128), 16};
}
// Places of a group list that one piece adds; a piece leaves up to two partial sums.
constexpr std::int64_t kEmbeddingPiecePlaces = 32;
constexpr std::int64_t kEmbeddingPartials = 2;
constexpr std::int64_t kMaxAbsPieces = 4096;

// Floats of one partial sum of `cols` columns: every one starts on 16 bytes and holds whole chunks.
constexpr std::int64_t partial_width(std::int64_t cols) { return round_up(cols, 8); }
constexpr std::size_t partial_bytes(std::int64_t partials, std::int64_t cols) {
  return static_cast<std::size_t>(partials * partial_width(cols)) * sizeof(float);
}

constexpr bool has_fused_attention(DType dtype, std::int64_t head_dim) {
  return dtype == DType::bf16 && (head_dim == 64 || head_dim == 80 || head_dim == 128);
}

constexpr std::int64_t kMaxGridSequences = 65535;  // CUDA's limit of a grid's z dimension
// One pass of the attention kernels over `sequences` of `cols` columns.
struct AttentionWork {
  std::int64_t sequences = 0, cols = 0, heads = 0;
  bool dropout = false;

  // Fused, backward only: a row of 16 bytes a query, and with dropout a byte for each of the 16
  // draws of a group of 128 keys. Queries in tiles of 64.
  std::int64_t padded_cols() const { return round_up(cols, 64); }
  std::int64_t draw_groups() const { return dropout ? ceil_div(cols, 128) : 0; }
  std::size_t row_bytes() const {
    return static_cast<std::size_t>(sequences * heads * padded_cols()) * 16;
  }
  std::size_t fused_bytes() const {
    return row_bytes() +
           static_cast<std::size_t>(sequences * heads * draw_groups() * 16 * padded_cols());
  }

  // Unfused: square matrices of scores, rows padded to 32 bytes in either type, for as many
  // sequences at a time as kPassBytes hold.
  static constexpr std::int64_t kPassBytes = std::int64_t{256} << 20;
  std::int64_t square_ld() const { return round_up(cols, 8); }
  std::int64_t pass_sequences() const {
    const std::int64_t one = std::max<std::int64_t>(heads * cols * square_ld() * 4, 1);
    return std::clamp<std::int64_t>(kPassBytes / one, 1,
                                    std::clamp<std::int64_t>(sequences, 1, kMaxGridSequences));
  }
  std::size_t square_bytes(DType dtype) const {
    const auto elements = static_cast<std::size_t>(pass_sequences() * heads * cols * square_ld());
    return (elements * size_of(dtype) + 255) / 256 * 256;
  }
  // One matrix of scores in fp32 and, unless it serves for both, one in the storage type.
  std::size_t pair_bytes(DType dtype) const {
    return square_bytes(DType::f32) + (dtype == DType::f32 ? 0 : square_bytes(dtype));
  }
};

// What cuDNN's deterministic backward pass keeps: dP in bf16, and its row sums in fp32, for all
// sequences at once. Read in its frontend; no GPU has confirmed it.
inline std::size_t cudnn_attention_bytes(const StepShape& s) {
  if (s.attention != AttentionPath::cudnn) return 0;
  const std::int64_t sequences =
      std::min(s.sequences, s.tokens / std::max<std::int64_t>(1, s.longest));
  return static_cast<std::size_t>(sequences * s.heads_local * s.longest * (2 * s.longest + 4));
}
// What the largest operation of a step needs, over all its micro-batches.
inline std::size_t attention_bytes(const StepShape& s) {
  std::size_t most = 0;
  if (s.attention == AttentionPath::cudnn) return most;  // has memory of its own
  const bool fused =
      s.attention == AttentionPath::own && has_fused_attention(s.compute, s.head_dim);
  for (std::int64_t cols = 1; cols <= s.longest; ++cols) {
    const AttentionWork work{std::min(s.sequences, s.tokens / cols), cols, s.heads_local,
                             s.attention_dropout};
    if (work.sequences == 0) break;
    most = std::max(most, fused ? work.fused_bytes() : 2 * work.pair_bytes(s.compute));
  }
  return most;
}
inline std::size_t step_workspace_bytes(const StepShape& s) {
  const auto sums = [](std::int64_t rows, std::int64_t cols) {
    return partial_bytes(kColumnSumPieces.most_up_to(rows), cols);
  };
  const auto norms = [&](std::int64_t rows) {
    return partial_bytes(kLayerNormPieces.most_up_to(rows) * kLayerNormSums, s.hidden);
  };
  return std::max(
      {attention_bytes(s), sums(s.tokens, std::max({s.ffn_local, s.qkv_cols, s.hidden})),
       sums(s.targets, s.hidden), norms(s.tokens), norms(s.targets),
       partial_bytes(cross_entropy_pieces(s.vocab_local).most_up_to(s.chunk_rows), s.vocab_local),
       partial_bytes(ceil_div(s.tokens, kEmbeddingPiecePlaces) * kEmbeddingPartials, s.hidden),
       static_cast<std::size_t>(kMaxAbsPieces) * sizeof(float)});
}
// For cuBLASLt: NVIDIA's own recommendation for Hopper; elsewhere it only widens the choice.
constexpr std::size_t kGemmWorkspaceBytes = std::size_t{32} << 20;
// A bias in the compute type, as cuBLASLt wants it: the one of q, k and v.
inline std::size_t step_bias_bytes(const StepShape& s) {
  return s.compute == DType::f32 ? 0 : static_cast<std::size_t>(s.qkv_cols) * size_of(s.compute);
}

}  // namespace demist::cuda
