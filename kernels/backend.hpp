// The mathematics of a training step on one device: one op, one contract here, one file per device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/tensor.hpp"
#include "kernels/attention_chooser.hpp"
#include "kernels/product_chooser.hpp"
#include "kernels/types.hpp"

namespace demist {

// Copies out of a backend's memory that the host waits for later, beside operations given later.
class ReadBack {
 public:
  virtual ~ReadBack() = default;
  // Of what `from` holds after the operations given so far. `to` lies in host_memory().
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual bool arrived() = 0;  // everything so far
  virtual void wait() = 0;     // until it has
  virtual void hold() = 0;     // operations given from now on wait for it: they may write to `from`
};

// Every view and span given to an operation lies in the backend's memory(); upload and download are
// the way in and out. Operations run in the order of their calls; only download() and ReadBack wait
// for them.
//
// S is the storage type of activations and matrices: fp32, or bf16 with every sum, statistic and
// exponential in fp32 and one rounding on store. n = tokens, d = hidden, V = vocabulary rows held
// here. Outputs are overwritten unless the comment says "adds". Results do not depend on the number
// of threads. Wrong shapes or types throw InternalError naming the op (checked in ops.cpp; the
// public functions are the non-virtual ones).
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "cpu avx512", ...

  virtual Memory& memory() = 0;
  // Whether memory() is the host's, so that nothing need be copied to read it.
  virtual bool on_host() const { return false; }
  // Bytes from host memory to the backend's; `from` may be reused at once.
  virtual void upload(void* to, const void* from, std::size_t bytes) = 0;
  // The same, beside the operations given since the upload_beside() before this one, none of which
  // may use `to`; those given from now on wait for it.
  virtual void upload_beside(void* to, const void* from, std::size_t bytes) {
    upload(to, from, bytes);
  }
  // The other way; returns when the bytes are there.
  virtual void download(void* to, const void* from, std::size_t bytes) = 0;
  // Which the backend must outlive.
  virtual std::unique_ptr<ReadBack> make_read_back();
  // Where copies go to that need not be waited for. May outlive the backend.
  virtual Memory& host_memory() { return Memory::host(); }
  // Within the backend's memory; the ranges do not overlap.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void zero(void* to, std::size_t bytes) = 0;
  // Makes the work space of a step's operations, so that none need be made in the step.
  virtual void prepare(const StepShape&) {}
  // Null where products have one way each.
  virtual ProductChooser* product_chooser() { return nullptr; }
  // Null where attention has one way.
  virtual AttentionChooser* attention_chooser() { return nullptr; }

  // out (S or fp32) = op(a) op(b) (both S) [+ bias fp32 [n]]; accumulate: adds to out (fp32 only).
  void gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
            bool accumulate = false, std::span<const float> bias = {});

  // x[t] = word[ids[t] - word_begin] + position[positions[t]] + type[0]; x S [n,d].
  // Ids outside [word_begin, word_begin + word.rows) add no word (vocabulary-parallel); with
  // `word_only` the position and type rows are left out (another rank adds them). Tables are S.
  void embed_forward(TensorView x, std::span<const std::int32_t> ids,
                     std::span<const std::int32_t> positions, ConstTensorView word,
                     std::int64_t word_begin, ConstTensorView position, ConstTensorView type,
                     bool word_only);
  // dword (fp32 [V,d]) adds dx rows in token order per id, deterministically; dposition (fp32) and
  // dtype_row (fp32 [1,d], the column sum of dx) are overwritten. `ids` and `positions` group the
  // tokens by their values. Rows `padding_id` of dword (the id, wherever word_begin is) and of
  // dposition get nothing.
  void embed_backward(TensorView dword, std::int64_t word_begin, TensorView dposition,
                      TensorView dtype_row, ConstTensorView dx, const Grouping& ids,
                      const Grouping& positions, std::int32_t padding_id);

  // out = gelu(pre + bias), exact erf form (Hendrycks and Gimpel 2016). out may alias pre.
  void bias_gelu_forward(TensorView out, ConstTensorView pre, std::span<const float> bias);
  // dpre = dout * gelu'(pre + bias); dbias = column sum of dpre. dpre may alias dout.
  void bias_gelu_backward(TensorView dpre, std::span<float> dbias, ConstTensorView dout,
                          ConstTensorView pre, std::span<const float> bias);

  void add_layernorm_forward(const AddLayerNorm& op);  // Ba et al. 2016
  void add_layernorm_backward(const AddLayerNormBackward& op);
  // x = dropout(x) in place; its own backward with the same key. Rows as in AddLayerNorm.
  void dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid);

  // Bidirectional softmax attention over each sequence's key ranges (Vaswani et al. 2017, eq. 1),
  // scale 1/sqrt(head_dim). qkv S [n, 3 * heads * head_dim] = (q | k | v), heads side by side.
  // out S [n, heads * head_dim]; lse fp32 [heads, n] = log-sum-exp of the scaled scores (0 where
  // the range is empty).
  void attention_forward(TensorView out, TensorView lse, ConstTensorView qkv, const Attention& op);
  // dqkv S, laid out as qkv. Probabilities are recomputed from lse; never [cols x cols] for more
  // than one head of one sequence a thread.
  void attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                          ConstTensorView out, ConstTensorView lse, const Attention& op);

  void gather_rows(TensorView out, ConstTensorView x, std::span<const std::int32_t> rows);
  // out = 0, then out[rows[i]] = x[i]; rows are distinct.
  void scatter_rows(TensorView out, ConstTensorView x, std::span<const std::int32_t> rows);
  void column_sum(std::span<float> out, ConstTensorView x);  // fp32 [cols], fixed order by shape
  void add(TensorView out, ConstTensorView a, ConstTensorView b);  // out may alias either
  // fp32 <-> S. In bf16, numbers below 2^-126 may become 0.
  void convert(TensorView out, ConstTensorView in);

  // Softmax cross-entropy in three passes, so that ranks can exchange statistics after the first.
  // Everywhere a logit is logits fp32 [m,V] + bias ([V], or empty: none), added anew in each pass:
  // cheaper than to write the sums.
  // 1) statistics fp32 [m, CrossEntropyColumn::count] of the logits.
  void cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                std::span<const float> bias, std::span<const std::int32_t> target,
                                const VocabularyPart& part);
  // 2) From the statistics of all parts, fp32 [parts * m, count] with part p's row r at p * m + r,
  // combined in that order: lse [m] = log-sum-exp over the vocabulary, row_loss [m].
  void cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                          ConstTensorView statistics, const CrossEntropyRows& rows);
  // 3) dlogits S [m,V] = (weight + smooth) p - weight * onehot(target) - smooth / vocab_size,
  // p = exp(logit - lse); dbias ([V]) adds its column sums, taken before rounding to S. dlogits may
  // start where logits start when its rows are as many bytes apart; padding columns get 0.
  void cross_entropy_backward(TensorView dlogits, std::span<float> dbias, ConstTensorView logits,
                              std::span<const float> bias, std::span<const float> lse,
                              const CrossEntropyRows& rows, const VocabularyPart& part);

  // For each piece i: acc += round(grad * scale), ties to even, and largest[i] = the larger of
  // itself and the piece's |grad|, as max_abs. Where |grad| * scale >= 2^62 the sum is lost;
  // `largest` tells. acc may be empty: only `largest` is wanted.
  void fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                       std::span<const float> grad, const ScaledPieces& pieces);
  // largest[0] = the larger of itself and every |value|; NaN sticks, and any value that is not
  // finite makes it NaN.
  void max_abs(std::span<float> largest, std::span<const float> values);
  // out = acc / scale, rounded once to fp32. Elements outside the pieces stay.
  void fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                            const ScaledPieces& pieces);
  // out = fp32(round(grad * scale)) / scale: what fixed_point_add of one gradient to zero and
  // fixed_point_to_float come to, without the integers in memory. out may alias grad.
  void fixed_point_round(std::span<float> out, std::span<const float> grad,
                         const ScaledPieces& pieces);
  // Sum of squares in double, each kNormTile elements in a fixed order; out has one value a tile.
  static constexpr std::int64_t kNormTile = 1024;
  void tile_sum_squares(std::span<double> out, std::span<const float> values);

  // Decoupled weight decay Adam (Loshchilov and Hutter 2019, alg. 2): with g = grad * grad_scale,
  // m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
  // p -= lr * (m c1 / (sqrt(v c2) + eps) + weight_decay * p), c the bias corrections.
  // work (S, [1, size], or absent) receives the rounded parameter.
  void adamw(std::span<float> param, std::span<float> m, std::span<float> v,
             std::span<const float> grad, TensorView work, const AdamW& op);

 private:
  virtual void do_gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
                       bool accumulate, std::span<const float> bias) = 0;
  virtual void do_embed_forward(TensorView x, std::span<const std::int32_t> ids,
                                std::span<const std::int32_t> positions, ConstTensorView word,
                                std::int64_t word_begin, ConstTensorView position,
                                ConstTensorView type, bool word_only) = 0;
  virtual void do_embed_backward(TensorView dword, std::int64_t word_begin, TensorView dposition,
                                 TensorView dtype_row, ConstTensorView dx, const Grouping& ids,
                                 const Grouping& positions, std::int32_t padding_id) = 0;
  virtual void do_bias_gelu_forward(TensorView out, ConstTensorView pre,
                                    std::span<const float> bias) = 0;
  virtual void do_bias_gelu_backward(TensorView dpre, std::span<float> dbias, ConstTensorView dout,
                                     ConstTensorView pre, std::span<const float> bias) = 0;
  virtual void do_add_layernorm_forward(const AddLayerNorm& op) = 0;
  virtual void do_add_layernorm_backward(const AddLayerNormBackward& op) = 0;
  virtual void do_dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid) = 0;
  virtual void do_attention_forward(TensorView out, TensorView lse, ConstTensorView qkv,
                                    const Attention& op) = 0;
  virtual void do_attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                                     ConstTensorView out, ConstTensorView lse,
                                     const Attention& op) = 0;
  virtual void do_gather_rows(TensorView out, ConstTensorView x,
                              std::span<const std::int32_t> rows) = 0;
  virtual void do_scatter_rows(TensorView out, ConstTensorView x,
                               std::span<const std::int32_t> rows) = 0;
  virtual void do_column_sum(std::span<float> out, ConstTensorView x) = 0;
  virtual void do_add(TensorView out, ConstTensorView a, ConstTensorView b) = 0;
  virtual void do_convert(TensorView out, ConstTensorView in) = 0;
  virtual void do_cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                           std::span<const float> bias,
                                           std::span<const std::int32_t> target,
                                           const VocabularyPart& part) = 0;
  virtual void do_cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                                     ConstTensorView statistics, const CrossEntropyRows& rows) = 0;
  virtual void do_cross_entropy_backward(TensorView dlogits, std::span<float> dbias,
                                         ConstTensorView logits, std::span<const float> bias,
                                         std::span<const float> lse, const CrossEntropyRows& rows,
                                         const VocabularyPart& part) = 0;
  virtual void do_fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                                  std::span<const float> grad, const ScaledPieces& pieces) = 0;
  virtual void do_max_abs(std::span<float> largest, std::span<const float> values) = 0;
  virtual void do_fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                                       const ScaledPieces& pieces) = 0;
  virtual void do_fixed_point_round(std::span<float> out, std::span<const float> grad,
                                    const ScaledPieces& pieces) = 0;
  virtual void do_tile_sum_squares(std::span<double> out, std::span<const float> values) = 0;
  virtual void do_adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                        std::span<const float> grad, TensorView work, const AdamW& op) = 0;
};

// The best CPU instruction set this machine has: AVX-512 with bf16, or AVX2. `isa`: "" picks;
// "avx2", "avx512", "avx512_bf16" (the same, but attention multiplies pairs of bf16) force one and
// throw EnvironmentError when the machine lacks it.
std::unique_ptr<Backend> make_cpu_backend(const std::string& isa = "");

}  // namespace demist
