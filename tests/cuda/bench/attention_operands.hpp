// One layer's attention, on random numbers in a device's memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "tests/cuda/bench/measurements.hpp"
#include "tests/cuda/bench/models.hpp"

namespace demist::bench {

// 512 tokens a row.
inline AttentionShape attention_shape(const NamedModel& model, bool tiny) {
  AttentionShape shape;
  shape.cols = tiny ? 128 : 512;
  shape.rows = tiny ? 1 : model.hidden >= 2560 ? 16 : 64;
  shape.heads = model.heads;
  shape.head_dim = model.hidden / model.heads;
  shape.lse_ld = shape.rows * shape.cols;
  return shape;
}

class AttentionOperands {
 public:
  AttentionOperands(cuda::CudaBackend& backend, const AttentionShape& s)
      : backend_(backend),
        tokens_(s.rows * s.cols),
        width_(s.heads * s.head_dim),
        qkv_(random_numbers(backend, static_cast<std::size_t>(3 * tokens_ * width_))),
        dout_(random_numbers(backend, static_cast<std::size_t>(tokens_ * width_))),
        out_(DType::bf16, tokens_, width_, backend.memory()),
        dqkv_(DType::bf16, tokens_, 3 * width_, backend.memory()),
        lse_(DType::f32, s.heads, s.lse_ld, backend.memory()) {
    std::vector<std::uint64_t> sample(static_cast<std::size_t>(s.rows));
    std::iota(sample.begin(), sample.end(), 0);
    fill(sample_, sample);
    fill(begin_, std::vector<std::int32_t>(static_cast<std::size_t>(tokens_), 0));
    fill(end_, std::vector<std::int32_t>(static_cast<std::size_t>(tokens_),
                                         static_cast<std::int32_t>(s.cols)));
    op_.heads = s.heads;
    op_.head_dim = s.head_dim;
    op_.grid = {s.rows, s.cols, sample_.span()};
    op_.keys = {begin_.span(), end_.span()};
  }
  cuda::AttentionForward forward() { return {out_.view(), lse_.view(), qkv()}; }
  cuda::AttentionBackward backward() {
    return {dqkv_.view(), matrix(dout_.data(), tokens_, width_), qkv(), out_.view(), lse_.view()};
  }
  Attention& op() { return op_; }

 private:
  template <class T>
  void fill(Buffer<T>& buffer, const std::vector<T>& values) {
    buffer = Buffer<T>(values.size(), backend_.memory());
    backend_.upload(buffer.data(), values.data(), values.size() * sizeof(T));
  }
  TensorView qkv() { return matrix(qkv_.data(), tokens_, 3 * width_); }

  cuda::CudaBackend& backend_;
  std::int64_t tokens_, width_;
  Buffer<bf16> qkv_, dout_;
  Tensor out_, dqkv_, lse_;
  Buffer<std::uint64_t> sample_;
  Buffer<std::int32_t> begin_, end_;
  Attention op_;
};

}  // namespace demist::bench
