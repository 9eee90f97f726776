// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.hpp"
#include "kernels/cpu/isa/philox_lanes.hpp"
#include "kernels/cpu/isa/vec_math.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

// Dropout's factors along one row of an activation; 1 everywhere when dropout is off.
class RowFactors {
 public:
  RowFactors(const Dropout& dropout, const TokenGrid& grid, std::int64_t r)
      : active_(dropout.active()),
        scale_(dropout),
        stream_(dropout.key, active_ ? static_cast<std::uint32_t>(r % grid.cols) : 0u,
                active_ ? grid.sample.data()[r / grid.cols] : 0u) {}

  // Calls body(i, count, factor) over the vectors of [0, n).
  template <class Body>
  [[gnu::always_inline]] inline void for_row(std::int64_t n, Body&& body) const {
    if (!active_) {
      for_lanes(n, [&](std::int64_t i, auto count) { body(i, count, broadcast(1.0f)); });
      return;
    }
    for (std::int64_t begin = 0; begin < n; begin += kDrawsPerGroup) {
      alignas(64) std::uint16_t draws[kDrawsPerGroup];
      stream_.draws(draws, begin / kDrawsPerGroup);
      const std::int64_t length = n - begin < kDrawsPerGroup ? n - begin : kDrawsPerGroup;
      for_lanes(length, [&](std::int64_t i, auto count) {
        body(begin + i, count, scale_.factor(draws + i));
      });
    }
  }

 private:
  bool active_;
  DropoutScale scale_;
  DropoutRow stream_;
};

// s = residual + dropout(x + bias) as stored; returns the sum of the row.
template <class T>
float add_row(T* s, const AddLayerNorm& op, std::int64_t r) {
  const T* x = row<T>(op.x, r);
  const T* residual = op.residual.data ? row<T>(op.residual, r) : nullptr;
  const float* bias = op.bias.size() ? op.bias.data() : nullptr;
  Vec sum = {};
  RowFactors(op.dropout, op.grid, r)
      .for_row(op.x.cols, [&](std::int64_t i, auto count, Vec factor) {
        Vec v = load(x + i, count);
        if (bias) v += load(bias + i, count);
        v *= factor;
        if (residual) v += load(residual + i, count);
        store(s + i, v, count);
        sum += rounded(v, s);
      });
  return horizontal_sum(sum);
}

// Two passes over the stored row, so that rows of large equal values keep their small variance.
template <class T>
float row_rstd(const T* s, float mean, const AddLayerNorm& op) {
  const std::int64_t d = op.x.cols;
  Vec even = {}, odd = {};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= d; i += 2 * kLanes) {
    const Vec a = load(s + i) - mean, b = load(s + i + kLanes) - mean;
    even += a * a;
    odd += b * b;
  }
  for (; i < d; ++i) {  // fewer than two vectors
    const float a = horizontal_sum(load(s + i, 1)) - mean;
    even[i % kLanes] += a * a;
  }
  const float variance = horizontal_sum(even + odd) / static_cast<float>(d);
  return 1.0f / sqrt(broadcast(variance + op.epsilon))[0];
}

template <class T>
void forward_rows(const AddLayerNorm& op, RowRange rows) {
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    T* y = op.y.data ? row<T>(op.y, r) : nullptr;
    T* s = op.sum.data ? row<T>(op.sum, r) : y;  // y holds the sum where nobody needs it
    const float mean = add_row(s, op, r) / static_cast<float>(op.x.cols);
    if (!y) continue;
    const float rstd = row_rstd(s, mean, op);
    op.mean.data()[r] = mean;
    op.rstd.data()[r] = rstd;
    const float* gamma = op.gamma.data();
    const float* beta = op.beta.data();
    for_lanes(op.x.cols, [&](std::int64_t i, auto count) {
      const Vec normal = (load(s + i, count) - mean) * rstd;
      store(y + i, normal * load(gamma + i, count) + load(beta + i, count), count);
    });
  }
}

struct RowMeans {
  float gradient = 0;  // mean of dy gamma
  float product = 0;   // mean of dy gamma * normalized value
};

template <class T>
RowMeans backward_means(const AddLayerNormBackward& op, float* dgamma, float* dbeta,
                        std::int64_t r) {
  const T* dy = row<T>(op.dy, r);
  const T* s = row<T>(op.sum, r);
  const float* gamma = op.gamma.data();
  const float mean = op.mean.data()[r], rstd = op.rstd.data()[r];
  Vec gradient = {}, product = {};
  for_lanes(op.dy.cols, [&](std::int64_t i, auto count) {
    Vec normal = (load(s + i, count) - mean) * rstd;
    const Vec dyi = load(dy + i, count);  // 0 beyond a tail's end, so the sums stay clean
    const Vec g = dyi * load(gamma + i, count);
    gradient += g;
    product += g * normal;
    store(dgamma + i, load(dgamma + i, count) + dyi * normal, count);
    store(dbeta + i, load(dbeta + i, count) + dyi, count);
  });
  const auto d = static_cast<float>(op.dy.cols);
  return {horizontal_sum(gradient) / d, horizontal_sum(product) / d};
}

template <class T>
void backward_row(const AddLayerNormBackward& op, const RowMeans& means, float* dbias,
                  std::int64_t r) {
  const T* dy = op.dy.data ? row<T>(op.dy, r) : nullptr;
  const T* s = dy ? row<T>(op.sum, r) : nullptr;
  const T* extra = op.dsum_extra.data ? row<T>(op.dsum_extra, r) : nullptr;
  T* dsum = row<T>(op.dsum, r);
  T* dx = op.dx.data ? row<T>(op.dx, r) : nullptr;
  const float* gamma = op.gamma.data();
  const float mean = dy ? op.mean.data()[r] : 0, rstd = dy ? op.rstd.data()[r] : 0;
  const bool wants_dbias = op.dbias.size() > 0;
  const auto body = [&](std::int64_t i, auto count, Vec factor) {
    Vec v = {};
    if (dy) {
      const Vec normal = (load(s + i, count) - mean) * rstd;
      const Vec g = load(dy + i, count) * load(gamma + i, count);
      v = (g - means.gradient - normal * means.product) * rstd;
    }
    if (extra) v += load(extra + i, count);
    store(dsum + i, v, count);
    v *= factor;
    if (dx) store(dx + i, v, count);
    if (wants_dbias) store(dbias + i, load(dbias + i, count) + v, count);
  };
  RowFactors(op.dropout, op.grid, r).for_row(op.dsum.cols, body);
}

template <class T>
void backward_rows(const AddLayerNormBackward& op, float* partial, RowRange rows) {
  const std::int64_t d = op.dsum.cols;
  float *dgamma = partial, *dbeta = partial + d, *dbias = partial + 2 * d;
  std::memset(partial, 0, static_cast<std::size_t>(3 * d) * sizeof(float));
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    RowMeans means;
    if (op.dy.data) means = backward_means<T>(op, dgamma, dbeta, r);
    backward_row<T>(op, means, dbias, r);
  }
}

}  // namespace

void add_layernorm_forward(const AddLayerNorm& op, RowRange rows) {
  if (op.x.dtype == DType::bf16)
    forward_rows<bf16>(op, rows);
  else
    forward_rows<float>(op, rows);
}

void add_layernorm_backward(const AddLayerNormBackward& op, float* partial, RowRange rows) {
  if (op.dsum.dtype == DType::bf16)
    backward_rows<bf16>(op, partial, rows);
  else
    backward_rows<float>(op, partial, rows);
}

}  // namespace demist::cpu::DEMIST_ISA
