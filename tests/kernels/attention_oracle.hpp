// Attention in double precision, one score at a time, straight from the formula.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/philox.hpp"
#include "kernels/types.hpp"

namespace demist::oracle {

// dropout's factor of element `e` of a row, by the text of kernels/types.hpp.
inline double dropout_factor(const Dropout& dropout, std::uint64_t sample, std::uint32_t position,
                             std::int64_t e) {
  if (!dropout.active()) return 1.0;
  const auto g = static_cast<std::uint32_t>(e / 128), r = static_cast<std::uint32_t>(e % 128);
  const Philox4 words = draw(dropout.key, sample, position, g * 16 + (r % 32) / 2);
  const std::uint32_t bits = (words.v[r / 32] >> (16 * (r % 2))) & 0xffffu;
  const double threshold = std::round(static_cast<double>(dropout.p) * 65536.0);
  return bits < threshold ? 0.0 : 65536.0 / (65536.0 - threshold);
}

// qkv [tokens][3 * heads * head_dim], out [tokens][heads * head_dim], lse [heads][tokens].
struct AttentionOracle {
  const Attention& op;
  std::vector<double> qkv, out, lse;

  AttentionOracle(const Attention& attention, std::vector<double> inputs)
      : op(attention), qkv(std::move(inputs)) {
    out.assign(tokens() * width(), 0.0);
    lse.assign(tokens() * heads(), 0.0);
    for (std::size_t token = 0; token < tokens(); ++token)
      for (std::size_t head = 0; head < heads(); ++head) forward_row(token, head);
  }

  // dqkv for a given dout: dV = P'^T dO, dP' = dO V^T, dS = P (M dP' - rowsum(P M dP')).
  std::vector<double> backward(const std::vector<double>& dout) const {
    std::vector<double> dqkv(qkv.size(), 0.0);
    for (std::size_t token = 0; token < tokens(); ++token)
      for (std::size_t head = 0; head < heads(); ++head) backward_row(dqkv, dout, token, head);
    return dqkv;
  }

 private:
  std::size_t tokens() const { return static_cast<std::size_t>(op.grid.tokens()); }
  std::size_t heads() const { return static_cast<std::size_t>(op.heads); }
  std::size_t dim() const { return static_cast<std::size_t>(op.head_dim); }
  std::size_t width() const { return heads() * dim(); }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(dim())); }
  // Index of element 0 of q (part 0), k or v.
  std::size_t at(std::size_t token, std::size_t part, std::size_t head) const {
    return token * 3 * width() + part * width() + head * dim();
  }
  double dot(const std::vector<double>& a, std::size_t i, const std::vector<double>& b,
             std::size_t j) const {
    double sum = 0;
    for (std::size_t d = 0; d < dim(); ++d) sum += a[i + d] * b[j + d];
    return sum;
  }
  // First token of the sequence, and the dropout factor of one key.
  std::size_t sequence_start(std::size_t token) const {
    const auto cols = static_cast<std::size_t>(op.grid.cols);
    return token / cols * cols;
  }
  double factor(std::size_t token, std::size_t head, std::int64_t key) const {
    const auto cols = static_cast<std::size_t>(op.grid.cols);
    const auto position = static_cast<std::uint32_t>(token % cols) * Attention::kMaxHeads +
                          static_cast<std::uint32_t>(op.first_head) +
                          static_cast<std::uint32_t>(head);
    return dropout_factor(op.dropout, op.grid.sample[token / cols], position, key);
  }

  // Probabilities of the row's keys, before dropout; sets lse.
  std::vector<double> probabilities(std::size_t token, std::size_t head, double& row_lse) const {
    const std::int32_t begin = op.keys.begin[token], end = op.keys.end[token];
    std::vector<double> p;
    double largest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (std::int32_t k = begin; k < end; ++k) {
      const std::size_t key = sequence_start(token) + static_cast<std::size_t>(k);
      p.push_back(scale() * dot(qkv, at(token, 0, head), qkv, at(key, 1, head)));
      largest = std::max(largest, p.back());
    }
    for (double& x : p) sum += x = std::exp(x - largest);
    for (double& x : p) x /= sum;
    row_lse = p.empty() ? 0.0 : largest + std::log(sum);
    return p;
  }

  void forward_row(std::size_t token, std::size_t head) {
    const auto p = probabilities(token, head, lse[head * tokens() + token]);
    for (std::size_t i = 0; i < p.size(); ++i) {
      const auto k = static_cast<std::size_t>(op.keys.begin[token]) + i;
      const double weight = p[i] * factor(token, head, static_cast<std::int64_t>(k));
      for (std::size_t d = 0; d < dim(); ++d)
        out[token * width() + head * dim() + d] +=
            weight * qkv[at(sequence_start(token) + k, 2, head) + d];
    }
  }

  void backward_row(std::vector<double>& dqkv, const std::vector<double>& dout, std::size_t token,
                    std::size_t head) const {
    double row_lse = 0, delta = 0;
    const auto p = probabilities(token, head, row_lse);
    const std::size_t query = at(token, 0, head), row_dout = token * width() + head * dim();
    std::vector<double> dp(p.size());
    const auto key_of = [&](std::size_t i) {
      return sequence_start(token) + static_cast<std::size_t>(op.keys.begin[token]) + i;
    };
    for (std::size_t i = 0; i < p.size(); ++i) {
      const std::size_t value = at(key_of(i), 2, head);
      const double kept = factor(token, head, op.keys.begin[token] + static_cast<std::int64_t>(i));
      dp[i] = kept * dot(dout, row_dout, qkv, value);
      delta += p[i] * dp[i];
      for (std::size_t d = 0; d < dim(); ++d) dqkv[value + d] += p[i] * kept * dout[row_dout + d];
    }
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double ds = p[i] * (dp[i] - delta) * scale();
      const std::size_t key = at(key_of(i), 1, head);
      for (std::size_t d = 0; d < dim(); ++d) {
        dqkv[query + d] += ds * qkv[key + d];
        dqkv[key + d] += ds * qkv[query + d];
      }
    }
  }
};

}  // namespace demist::oracle
