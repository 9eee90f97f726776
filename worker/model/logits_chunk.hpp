// How many targets have their logits in memory at once, and how a row of them lies.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace demist {

// The logits are the largest work space: 64 MiB keep a chunk of 512 rows at 32 k words. But a chunk
// is never so short that it spends its time on the embedding matrix, and on its gradient in fp32
// (read and written once a chunk), rather than on its products. A GPU's products are faster by far
// than its memory: 2,048 rows of a width of 768 take an H100 3.9 ms at 620 TFLOP/s, the gradient's
// 1.5 GB 0.5 ms.
inline std::int64_t logits_chunk_rows(std::int64_t targets, std::int64_t vocab_local,
                                      bool on_host) {
  constexpr std::int64_t elements = 16 << 20;
  const std::int64_t least = on_host ? 384 : 2048;
  const std::int64_t fit = std::max(least, elements / vocab_local);
  const std::int64_t chunks = (targets + fit - 1) / fit;
  return chunks == 0 ? 0 : (targets + chunks - 1) / chunks;
}

// Rows of logits, and of the bf16 gradients that take their place, start at multiples of 16 bytes
// for any vocabulary.
constexpr std::int64_t logits_columns(std::int64_t vocab_local) {
  return (vocab_local + 7) / 8 * 8;
}

}  // namespace demist
