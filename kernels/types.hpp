// What an operation needs to know besides its tensors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "core/tensor.hpp"

namespace demist {

// The tokens of one micro-batch: sequence r, column c is row r * cols + c of every activation.
// `sample` names each sequence for the random streams (dropout), wherever it is computed.
struct TokenGrid {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::span<const std::uint64_t> sample = {};  // [rows]
  std::int64_t tokens() const { return rows * cols; }
};

// Keys that a query may see: [begin, end) of its own sequence's columns. One pair of int32 a token
// covers padding (0, length) and document masks (the document's columns). begin == end: output 0.
struct KeyRanges {
  std::span<const std::int32_t> begin = {};  // [tokens]
  std::span<const std::int32_t> end = {};    // [tokens]
};

// Equal values of a list, brought together: the places order[begin[i]] .. order[begin[i + 1]] of
// the list hold value[i]. Values ascend, and so do the places of one value.
struct Grouping {
  std::span<const std::int32_t> value = {};  // [distinct values]
  std::span<const std::int32_t> begin = {};  // [distinct values + 1], into order
  std::span<const std::int32_t> order = {};  // [length of the list]
};

// Dropout as a function. An element is dropped when its 16-bit draw is below round(p * 65536); kept
// elements are multiplied by 1 / (1 - p'), p' that rounded probability. The draw of element e of
// "row" (sample, position) under `key`, with g = e / 128, r = e % 128: half (r % 2) (0 = low) of
// word r / 32 of philox(key, c0 = g * 16 + (r % 32) / 2, c1 = position, c2, c3 = sample's low, high
// word).
struct Dropout {
  float p = 0;            // 0 turns it off
  std::uint64_t key = 0;  // stream_key(seed, stream, step)
  bool active() const { return p > 0; }
  std::uint32_t threshold() const { return static_cast<std::uint32_t>(std::lround(p * 65536.0f)); }
  float keep_scale() const { return 65536.0f / (65536.0f - static_cast<float>(threshold())); }
};

// Which operand of out = op(a) op(b) is stored transposed. Row-major throughout.
enum class Transpose {
  none,  // out[m,n] = a[m,k]   b[k,n]         (NN: dX = dY W)
  b,     // out[m,n] = a[m,k]   b[n,k]^T       (NT: Y = X W^T, W stored [out, in])
  a,     // out[m,n] = a[k,m]^T b[k,n]         (TN: dW = dY^T X)
};

struct AddLayerNorm {
  // forward: sum = residual + dropout(x + bias);  y = (sum - mean) * rstd * gamma + beta.
  // mean, rstd and y are those of the sum as stored, that is, rounded to S.
  TensorView sum = {};  // S [n,d]; absent when nobody needs it. May alias residual or x
  TensorView y = {};    // S [n,d]; absent: no normalization (pre-LN's last residual add)
  std::span<float> mean = {}, rstd = {};         // [n]
  ConstTensorView x = {};                        // S [n,d]
  std::span<const float> bias = {};              // [d] or empty
  ConstTensorView residual = {};                 // S [n,d] or absent
  std::span<const float> gamma = {}, beta = {};  // [d]
  float epsilon = 1e-5f;
  Dropout dropout = {};
  TokenGrid grid = {};  // dropout's rows; position = column
};

struct AddLayerNormBackward {
  // dsum = LayerNorm'(dy) + dsum_extra;  dx = dropout'(dsum);  dresidual = dsum.
  // dx and the column sums are taken before dsum is rounded to S.
  TensorView dsum = {};  // S [n,d]. May alias dy or dsum_extra
  TensorView dx = {};    // S [n,d]; may alias dsum when dropout is off; absent: not needed
  std::span<float> dgamma = {}, dbeta = {};  // [d], overwritten; unused without dy
  std::span<float> dbias = {};               // [d], overwritten with the column sum of dx; or empty
  ConstTensorView dy = {};                   // S [n,d]; absent: dsum = dsum_extra
  ConstTensorView dsum_extra = {};           // S [n,d] or absent
  ConstTensorView sum = {};                  // S [n,d] as stored by the forward pass
  std::span<const float> mean = {}, rstd = {};  // [n]
  std::span<const float> gamma = {};            // [d]
  Dropout dropout = {};
  TokenGrid grid = {};
};

// Softmax cross-entropy of rows whose vocabulary may be cut into parts, one a rank. Columns of a
// row of statistics over one part:
struct CrossEntropyColumn {
  static constexpr std::int64_t max = 0;        // largest logit; -infinity without a valid column
  static constexpr std::int64_t sum_exp = 1;    // sum of exp(logit - max)
  static constexpr std::int64_t logit_sum = 2;  // sum of all logits, for label smoothing
  static constexpr std::int64_t target_logit = 3;  // 0 when the target lies in another part
  static constexpr std::int64_t count = 4;
};
// Which columns of the vocabulary a part holds: logits[:, 0] is word `begin`; columns from `valid`
// on are padding and take no part.
struct VocabularyPart {
  std::int64_t begin = 0;
  std::int64_t valid = 0;
};
// What each row asks for: loss = weight * CE(target) + smooth * mean over the vocabulary of CE.
struct CrossEntropyRows {
  std::span<const std::int32_t> target = {};        // [m], word id
  std::span<const float> weight = {}, smooth = {};  // [m]
  std::int64_t vocab_size = 0;                      // of all parts together, without padding
};

struct Attention {
  std::int64_t heads = 0;       // heads held here
  std::int64_t first_head = 0;  // global index of the first: names the dropout rows
  std::int64_t head_dim = 0;
  TokenGrid grid = {};
  KeyRanges keys = {};
  // Probabilities are dropped at element k of row (sample, position = query * kMaxHeads + head).
  Dropout dropout = {};
  static constexpr std::uint32_t kMaxHeads = 1024;
};

// Of two largest magnitudes the larger one. NaN sticks: it compares false with everything.
inline float larger(float a, float b) { return b <= a || std::isnan(a) ? a : b; }

// Tensors that lie in one flat buffer, each with a power of two of its own, cut into pieces: what
// the fixed-point operations work through in one go.
struct ScaledPiece {
  static constexpr std::int64_t kLongest = 1 << 16;
  std::int64_t begin = 0;   // first element, in every buffer that the operation is given
  std::int32_t count = 0;   // 1 .. kLongest
  std::int32_t tensor = 0;  // whose scale
};
struct ScaledPieces {
  std::span<const ScaledPiece> pieces = {};
  std::span<const double> scale = {};  // [tensors] 2^exponent, |exponent| < 1,000
  bool aligned = false;                // every begin is a multiple of 8
};

// The implementations of attention, where a device has several (kernels/attention_chooser.hpp).
// Their results differ in last bits.
enum class AttentionPath {
  own,      // our fused kernels where they apply, else `unfused`
  unfused,  // matrix products and row kernels: the reference
  cudnn,
};

// The largest operations of a training step, by which a device plans its work space. A micro-batch
// has at most `tokens`, in at most `sequences` of at most `longest` columns.
struct StepShape {
  std::int64_t tokens = 0, sequences = 0, longest = 0;
  std::int64_t targets = 0, chunk_rows = 0;  // head rows, and how many have their logits at once
  std::int64_t hidden = 0, ffn_local = 0, qkv_cols = 0, vocab_local = 0;
  std::int64_t heads_local = 0, head_dim = 0;
  DType compute = DType::bf16;
  bool attention_dropout = false;
  AttentionPath attention = AttentionPath::own;
};

struct AdamW {
  float lr = 0, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 0;
  // 1 / (1 - beta^t), computed in double on the host.
  float bias_correction1 = 1, bias_correction2 = 1;
  float grad_scale = 1;  // multiplies the gradient first: 1 / normalizer * clip factor
};

}  // namespace demist
