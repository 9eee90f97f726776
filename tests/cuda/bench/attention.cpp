// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/cuda/work_sizes.hpp"
#include "tests/cuda/bench/measurements.hpp"
#include "tests/cuda/bench/models.hpp"

namespace demist::bench {
namespace {

// 512 tokens a row and no dropout: what cuDNN can compute.
AttentionShape shape_of(const NamedModel& model, bool tiny) {
  AttentionShape shape;
  shape.cols = tiny ? 128 : 512;
  shape.rows = tiny ? 1 : model.hidden >= 2560 ? 16 : 64;
  shape.heads = model.heads;
  shape.head_dim = model.hidden / model.heads;
  shape.lse_ld = shape.rows * shape.cols;
  return shape;
}

// One layer's operands in the backend's memory.
class Operands {
 public:
  Operands(cuda::CudaBackend& backend, const AttentionShape& s)
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
  void forward() { backend_.attention_forward(out_.view(), lse_.view(), qkv(), op_); }
  void backward() {
    backend_.attention_backward(dqkv_.view(), matrix(dout_.data(), tokens_, width_), qkv(),
                                out_.view(), lse_.view(), op_);
  }

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

template <class Pass>
double median_seconds(cuda::CudaBackend& backend, int repetitions, Pass pass) {
  pass();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    cuda::TimedEvent start, end;
    start.record(backend.stream());
    pass();
    end.record(backend.stream());
    seconds.push_back(end.seconds_since(start));
  }
  std::ranges::nth_element(seconds, seconds.begin() + repetitions / 2);
  return seconds[static_cast<std::size_t>(repetitions / 2)];
}

// What cuDNN's graphs keep for themselves is what the check leaves behind.
void measure_path(cuda::CudaBackend& backend, const NamedModel& model, AttentionPath path,
                  bool tiny) {
  const AttentionShape shape = shape_of(model, tiny);
  const int repetitions = tiny ? 1 : 10;
  AttentionChooser& chooser = *backend.attention_chooser();
  const std::size_t before = backend.memory().available();
  nlohmann::json line{{"kind", "attention"},        {"path", name_of(path)},
                      {"model", model.name},        {"rows", shape.rows},
                      {"cols", shape.cols},         {"heads", shape.heads},
                      {"head_dim", shape.head_dim}, {"problem", chooser.check(path, shape)}};
  backend.stream().wait();
  if (path == AttentionPath::cudnn) {
    StepShape step;
    step.tokens = shape.rows * shape.cols;
    step.sequences = shape.rows;
    step.longest = shape.cols;
    step.heads_local = shape.heads;
    step.attention = path;
    line["kept_bytes"] = before - std::min(before, backend.memory().available());
    line["planned_bytes"] = cuda::cudnn_attention_bytes(step);
  }
  if (line["problem"] == "") {
    chooser.use(path);
    Operands operands(backend, shape);
    line["forward_seconds"] = median_seconds(backend, repetitions, [&] { operands.forward(); });
    line["backward_seconds"] = median_seconds(backend, repetitions, [&] { operands.backward(); });
  }
  print(line);
}

}  // namespace

void compare_attention(bool tiny) {
  for (const NamedModel& model : kModels) {
    if (tiny != (std::string(model.name) == "tiny")) continue;
    for (const AttentionPath path : kAttentionPaths) {
      cuda::CudaBackend backend;
      const std::size_t version = backend.attention_chooser()->cudnn_version();
      if (path != AttentionPath::cudnn || version > 0) measure_path(backend, model, path, tiny);
    }
  }
  cuda::CudaBackend backend;
  print({{"kind", "cudnn"}, {"version", backend.attention_chooser()->cudnn_version()}});
}

}  // namespace demist::bench
