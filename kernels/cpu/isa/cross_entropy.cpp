// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.hpp"
#include "kernels/cpu/isa/vec_math.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

constexpr std::int64_t kBlock = 1024;  // columns: a block of logits stays in the first-level cache

std::size_t at(std::int64_t r) { return static_cast<std::size_t>(r); }

float exp_of(float x) { return exp(broadcast(x))[0]; }

// Logits of a row: a product and, where there is one, the bias.
struct RowLogits {
  const float* product;
  const float* bias;

  Vec at(std::int64_t column, auto count) const {
    const Vec v = load(product + column, count);
    return bias ? v + load(bias + column, count) : v;
  }
  float at(std::int64_t column) const {
    return bias ? product[column] + bias[column] : product[column];
  }
};

// A row's statistics so far (Milakov and Gimelshein 2018, "Online normalizer calculation for
// softmax", with a block in the place of an element).
struct RowStatistics {
  float max = -__builtin_inff();
  double sum_exp = 0;  // of exp(logit - max)
  double logit_sum = 0;

  void add_block(const RowLogits& logits, std::int64_t begin, std::int64_t n) {
    Vec block_max = broadcast(-__builtin_inff()), block_sum = {};
    for_lanes(n, [&](std::int64_t i, auto count) {
      const Vec v = logits.at(begin + i, count);
      block_sum += v;
      block_max = max_of(v, block_max, count);
    });
    logit_sum += static_cast<double>(horizontal_sum(block_sum));
    const float new_max = horizontal_max(block_max) > max ? horizontal_max(block_max) : max;
    if (sum_exp != 0) sum_exp *= static_cast<double>(exp_of(max - new_max));
    max = new_max;
    add_exponentials(logits, begin, n);
  }

 private:
  static Vec max_of(Vec v, Vec so_far, Full) { return demist::cpu::DEMIST_ISA::max(v, so_far); }
  static Vec max_of(Vec v, Vec so_far, int count) {
    for (int lane = 0; lane < count; ++lane)
      so_far[lane] = v[lane] > so_far[lane] ? v[lane] : so_far[lane];
    return so_far;
  }
  static Vec only(Vec v, Full) { return v; }
  static Vec only(Vec v, int count) {
    for (int lane = count; lane < kLanes; ++lane) v[lane] = 0;
    return v;
  }

  void add_exponentials(const RowLogits& logits, std::int64_t begin, std::int64_t n) {
    Vec sum = {};
    for_lanes(n, [&](std::int64_t i, auto count) {
      sum += only(exp(logits.at(begin + i, count) - max), count);
    });
    sum_exp += static_cast<double>(horizontal_sum(sum));
  }
};

// Column of the target within this part, or -1.
std::int64_t target_column(std::int32_t target, const VocabularyPart& part) {
  const std::int64_t column = target - part.begin;
  return column >= 0 && column < part.valid ? column : -1;
}

// Constants of a row's gradient: dlogit = scale * exp(logit - lse) - shift - onehot * weight.
template <class T>
struct RowGradient {
  RowLogits logits;
  T* dlogits;
  float lse, scale, shift;

  RowGradient(const CrossEntropyBackward& op, std::int64_t r)
      : logits{row<float>(op.logits, r), op.bias},
        dlogits(row<T>(op.dlogits, r)),
        lse(op.lse[r]),
        scale(op.rows.weight[at(r)] + op.rows.smooth[at(r)]),
        shift(op.rows.smooth[at(r)] / static_cast<float>(op.rows.vocab_size)) {}

  // Vectors are read before they are written: dlogits may lie over the logits already read.
  void do_block(float* dbias, std::int64_t begin, std::int64_t n) const {
    for_lanes(n, [&](std::int64_t i, auto count) {
      const std::int64_t column = begin + i;
      const Vec v = exp(logits.at(column, count) - lse) * scale - shift;
      store(dlogits + column, v, count);
      store(dbias + column, load(dbias + column, count) + v, count);
    });
  }
};

template <class T>
void backward_block(const CrossEntropyBackward& op, float* dbias, std::int64_t r,
                    std::int64_t begin, std::int64_t n) {
  const RowGradient<T> gradient(op, r);
  const std::int64_t target = target_column(op.rows.target[at(r)], op.part);
  const bool has_target = target >= begin && target < begin + n;
  const float logit = has_target ? gradient.logits.at(target) : 0;
  gradient.do_block(dbias, begin, n);
  if (!has_target) return;
  // Again from the logit, so that the stored value is rounded once.
  const float p = exp_of(logit - gradient.lse);
  const float value = gradient.scale * p - gradient.shift - op.rows.weight[at(r)];
  store(gradient.dlogits + target, broadcast(value), 1);
  dbias[target] -= op.rows.weight[at(r)];
}

// Block by block through all rows of the range, so that a block of dbias stays in the cache.
template <class T>
void backward_rows(const CrossEntropyBackward& op, float* dbias, RowRange rows) {
  const std::int64_t valid = op.part.valid;
  const std::int64_t padding = op.logits.cols - valid;
  std::memset(dbias, 0, static_cast<std::size_t>(op.logits.cols) * sizeof(float));
  for (std::int64_t begin = 0; begin < valid; begin += kBlock) {
    const std::int64_t n = valid - begin < kBlock ? valid - begin : kBlock;
    for (std::int64_t r = rows.begin; r < rows.end; ++r) backward_block<T>(op, dbias, r, begin, n);
  }
  if (padding == 0) return;
  for (std::int64_t r = rows.begin; r < rows.end; ++r)
    std::memset(static_cast<void*>(row<T>(op.dlogits, r) + valid), 0,
                static_cast<std::size_t>(padding) * sizeof(T));
}

}  // namespace

void cross_entropy_statistics(const CrossEntropyStatistics& op, RowRange rows) {
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const RowLogits logits{row<float>(op.logits, r), op.bias};
    RowStatistics statistics;
    for (std::int64_t begin = 0; begin < op.part.valid; begin += kBlock) {
      const std::int64_t left = op.part.valid - begin;
      statistics.add_block(logits, begin, left < kBlock ? left : kBlock);
    }
    const std::int64_t target = target_column(op.target[r], op.part);
    float* out = row<float>(op.statistics, r);
    out[CrossEntropyColumn::max] = statistics.max;
    out[CrossEntropyColumn::sum_exp] = static_cast<float>(statistics.sum_exp);
    out[CrossEntropyColumn::logit_sum] = static_cast<float>(statistics.logit_sum);
    out[CrossEntropyColumn::target_logit] = target < 0 ? 0.0f : logits.at(target);
  }
}

void cross_entropy_backward(const CrossEntropyBackward& op, float* dbias, RowRange rows) {
  if (op.dlogits.dtype == DType::bf16)
    backward_rows<bf16>(op, dbias, rows);
  else
    backward_rows<float>(op, dbias, rows);
}

}  // namespace demist::cpu::DEMIST_ISA
