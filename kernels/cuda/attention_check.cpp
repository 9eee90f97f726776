// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_check.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "core/error.hpp"

namespace demist::cuda {
namespace {

std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

// Uniform in [-1, 1), the same everywhere.
class Numbers {
 public:
  float next() { return static_cast<float>(bits_() >> 40) * 0x1p-23f - 1.0f; }

 private:
  std::mt19937_64 bits_{20260101};
};

// Elements of a matrix in host memory, whatever their type.
class HostMatrix {
 public:
  HostMatrix(DType dtype, std::int64_t rows, std::int64_t cols)
      : dtype_(dtype), cols_(cols), bytes_(count(rows * cols) * size_of(dtype)) {}
  float get(std::int64_t row, std::int64_t col) const {
    if (dtype_ == DType::f32) return read<float>(row, col);
    return static_cast<float>(read<bf16>(row, col));
  }
  void set(std::int64_t row, std::int64_t col, float value) {
    if (dtype_ == DType::f32) return write(row, col, value);
    write(row, col, bf16(value));
  }
  std::vector<std::byte>& bytes() { return bytes_; }
  bool operator==(const HostMatrix& other) const { return bytes_ == other.bytes_; }

 private:
  template <class T>
  T read(std::int64_t row, std::int64_t col) const {
    T value;
    std::memcpy(&value, &bytes_[count(row * cols_ + col) * sizeof(T)], sizeof(T));
    return value;
  }
  template <class T>
  void write(std::int64_t row, std::int64_t col, T value) {
    std::memcpy(&bytes_[count(row * cols_ + col) * sizeof(T)], &value, sizeof(T));
  }

  DType dtype_;
  std::int64_t cols_;
  std::vector<std::byte> bytes_;
};

// What an engine leaves, on the host. lse as [heads, lse_ld].
struct Outputs {
  HostMatrix out, dqkv, lse;
  bool operator==(const Outputs&) const = default;
};

// A batch on the device.
class Batch {
 public:
  Batch(Backend& backend, const Stream& stream, const AttentionShape& shape)
      : backend_(backend), stream_(stream), shape_(shape) {
    std::vector<std::uint64_t> sample(count(shape.rows));
    std::iota(sample.begin(), sample.end(), 0);
    fill(sample_, sample);
    fill(begin_, std::vector<std::int32_t>(count(tokens()), 0));
    fill(end_, std::vector<std::int32_t>(count(tokens()), static_cast<std::int32_t>(shape.cols)));
    make_inputs();
  }

  Outputs run(AttentionEngine& engine) {
    for (Tensor* output : {&out_, &dqkv_, &lse_})  // all ones is NaN in either type
      check(cudaMemsetAsync(output->view().data, 0xff, output->bytes(), stream_.get()),
            "fill device memory");
    const AttentionForward forward{out_.view(), lse_view(), qkv_.view()};
    const AttentionBackward backward{dqkv_.view(), dout_.view(), qkv_.view(), out_.view(),
                                     lse_view()};
    compute(engine, forward, backward, op(0, shape_.rows));
    return {download(out_), download(dqkv_), download(lse_)};
  }
  // Of sequence r alone.
  Outputs run_one(AttentionEngine& engine, std::int64_t r) {
    const std::int64_t cols = shape_.cols, width = this->width();
    Tensor out(shape_.dtype, cols, width, backend_.memory());
    Tensor dqkv(shape_.dtype, cols, 3 * width, backend_.memory());
    Tensor lse(DType::f32, shape_.heads, cols, backend_.memory());
    const ConstTensorView qkv = qkv_.view().row_slice(r * cols, cols);
    const AttentionForward forward{out.view(), lse.view(), qkv};
    const AttentionBackward backward{dqkv.view(), dout_.view().row_slice(r * cols, cols), qkv,
                                     out.view(), lse.view()};
    compute(engine, forward, backward, op(r, 1));
    return {download(out), download(dqkv), download(lse)};
  }
  bool supported_by(const AttentionEngine& engine) {
    return engine.supports(qkv_.view(), op(0, shape_.rows));
  }

 private:
  std::int64_t tokens() const { return shape_.rows * shape_.cols; }
  std::int64_t width() const { return shape_.heads * shape_.head_dim; }

  template <class T>
  void fill(Buffer<T>& buffer, const std::vector<T>& values) {
    buffer = Buffer<T>(values.size(), backend_.memory());
    backend_.upload(buffer.data(), values.data(), values.size() * sizeof(T));
  }
  // A sequence at a time. Element 0 of every head shifts all scores of a query; of larger keys dQ
  // would be little but rounding.
  void make_inputs() {
    const std::int64_t cols = shape_.cols, width = this->width();
    const float low = -28.0f * std::sqrt(static_cast<float>(shape_.head_dim));
    HostMatrix qkv(shape_.dtype, cols, 3 * width), dout(shape_.dtype, cols, width);
    Numbers numbers;
    for (std::int64_t r = 0; r < shape_.rows; ++r) {
      for (std::int64_t t = 0; t < cols; ++t) {
        for (std::int64_t i = 0; i < 3 * width; ++i) qkv.set(t, i, numbers.next());
        for (std::int64_t i = 0; i < width; ++i) dout.set(t, i, numbers.next());
        for (std::int64_t h = 0; h < shape_.heads; ++h) {
          qkv.set(t, width + h * shape_.head_dim, 4.0f);
          if (t % 16 == 5) qkv.set(t, h * shape_.head_dim, low);
        }
      }
      const auto upload = [&](Tensor& to, HostMatrix& from) {
        backend_.upload(to.view().row_slice(r * cols, cols).data, from.bytes().data(),
                        from.bytes().size());
      };
      upload(qkv_, qkv);
      upload(dout_, dout);
    }
  }

  Attention op(std::int64_t first, std::int64_t sequences) const {
    const std::size_t token = count(first * shape_.cols), tokens = count(sequences * shape_.cols);
    Attention op;
    op.heads = shape_.heads;
    op.first_head = shape_.first_head;
    op.head_dim = shape_.head_dim;
    op.grid = {sequences, shape_.cols, sample_.span().subspan(count(first), count(sequences))};
    op.keys = {begin_.span().subspan(token, tokens), end_.span().subspan(token, tokens)};
    op.dropout = shape_.dropout;
    return op;
  }
  void compute(AttentionEngine& engine, const AttentionForward& forward,
               const AttentionBackward& backward, const Attention& op) {
    const std::size_t bytes = std::max(engine.forward_workspace(forward.qkv, op),
                                       engine.backward_workspace(forward.qkv, op));
    if (bytes > workspace_.size()) {
      stream_.wait();
      workspace_ = {};
      workspace_ = Buffer<std::byte>(bytes, backend_.memory());
    }
    const Launch launch{stream_.get(), workspace_.data(), workspace_.size()};
    engine.forward(launch, forward, op);
    engine.backward(launch, backward, op);
  }
  TensorView lse_view() { return lse_.view().col_slice(0, tokens()); }
  HostMatrix download(const Tensor& tensor) {
    const ConstTensorView view = tensor.view();
    HostMatrix host(view.dtype, view.rows, view.cols);
    backend_.download(host.bytes().data(), view.data, host.bytes().size());
    return host;
  }

  Backend& backend_;
  const Stream& stream_;
  const AttentionShape& shape_;
  Buffer<std::uint64_t> sample_;
  Buffer<std::int32_t> begin_, end_;
  Tensor qkv_{shape_.dtype, tokens(), 3 * width(), backend_.memory()};
  Tensor dout_{shape_.dtype, tokens(), width(), backend_.memory()};
  Tensor out_{shape_.dtype, tokens(), width(), backend_.memory()};
  Tensor dqkv_{shape_.dtype, tokens(), 3 * width(), backend_.memory()};
  Tensor lse_{DType::f32, shape_.heads, shape_.lse_ld, backend_.memory()};
  Buffer<std::byte> workspace_;
};

std::string scientific(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", value);
  return text;
}

std::string place(const char* what, std::int64_t sequence, std::int64_t token) {
  return std::string(what) + " of sequence " + std::to_string(sequence) + ", token " +
         std::to_string(token);
}

// One sequence's results against the reference's.
class Comparison {
 public:
  Comparison(const AttentionShape& shape, std::int64_t sequence)
      : shape_(shape), sequence_(sequence), limits_(attention_limits(shape.dtype)) {}

  // Empty, or what is wrong.
  std::string compare(const Outputs& found, const Outputs& expected) const {
    const std::int64_t width = shape_.heads * shape_.head_dim;
    std::string problem = compare_rows("out", found.out, expected.out, 0);
    if (problem.empty()) problem = compare_lse(found.lse, expected.lse);
    const char* const gradients[] = {"dQ", "dK", "dV"};
    for (std::int64_t part = 0; part < 3 && problem.empty(); ++part)
      problem = compare_rows(gradients[part], found.dqkv, expected.dqkv, part * width);
    return problem;
  }

 private:
  struct Row {
    double norm = 0, difference = 0;  // squared
  };
  std::string compare_rows(const char* what, const HostMatrix& found, const HostMatrix& expected,
                           std::int64_t first) const {
    std::vector<Row> rows(count(shape_.cols));
    double mean = 0;
    for (std::int64_t t = 0; t < shape_.cols; ++t) {
      Row& row = rows[count(t)];
      for (std::int64_t i = first; i < first + shape_.heads * shape_.head_dim; ++i) {
        const double a = found.get(sequence_ * shape_.cols + t, i), b = expected.get(t, i);
        row.norm += b * b;
        row.difference += (a - b) * (a - b);
      }
      mean += row.norm / static_cast<double>(shape_.cols);
    }
    for (std::int64_t t = 0; t < shape_.cols; ++t) {
      const Row& row = rows[count(t)];
      if (row.difference == 0) continue;
      const std::string problem =
          judge(std::sqrt(row.difference / std::max(row.norm, mean)), limits_.row);
      if (!problem.empty()) return place(what, sequence_, t) + " " + problem;
    }
    return {};
  }
  std::string compare_lse(const HostMatrix& found, const HostMatrix& expected) const {
    for (std::int64_t h = 0; h < shape_.heads; ++h)
      for (std::int64_t t = 0; t < shape_.cols; ++t) {
        const double a = found.get(h, sequence_ * shape_.cols + t), b = expected.get(h, t);
        const std::string problem =
            judge(std::abs(a - b) / std::max(1.0, std::abs(b)), limits_.lse);
        if (!problem.empty())
          return place("lse", sequence_, t) + ", head " + std::to_string(h) + " " + problem;
      }
    return {};
  }
  static std::string judge(double error, double limit) {
    if (std::isnan(error)) return "is not finite, or was not written";
    if (error <= limit) return {};
    return "differs from the unfused path's by " + scientific(error) + " of its size, more than " +
           scientific(limit);
  }

  const AttentionShape& shape_;
  std::int64_t sequence_;
  AttentionLimits limits_;
};

}  // namespace

std::string check_attention(const AttentionTrial& trial, const AttentionShape& shape) {
  ensure(shape.lse_ld >= shape.rows * shape.cols, "check_attention: no room for lse");
  Batch batch(trial.backend, trial.stream, shape);
  if (!batch.supported_by(trial.candidate)) return "it does not support this shape";
  const Outputs first = batch.run(trial.candidate);
  for (std::int64_t r = 0; r < shape.rows; ++r) {
    const std::string problem =
        Comparison(shape, r).compare(first, batch.run_one(trial.reference, r));
    if (!problem.empty()) return problem;
  }
  if (batch.run(trial.candidate) == first) return {};
  return "computed twice, its results have other bits";
}

}  // namespace demist::cuda
