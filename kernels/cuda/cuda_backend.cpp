// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.hpp"

#include <algorithm>

#include "core/mpi.hpp"
#include "kernels/cuda/row_kernels.hpp"
#include "kernels/cuda/work_sizes.hpp"

namespace demist::cuda {
namespace {

// On a stream of its own, in pieces: what others copy meanwhile need not wait for all of them.
class CudaReadBack final : public ReadBack {
 public:
  CudaReadBack(const Stream& operations, Heartbeat* heartbeat)
      : operations_(operations), heartbeat_(heartbeat) {}
  ~CudaReadBack() override { cudaStreamSynchronize(stream_.get()); }
  CudaReadBack(const CudaReadBack&) = delete;
  CudaReadBack& operator=(const CudaReadBack&) = delete;

  void copy(void* to, const void* from, std::size_t bytes) override {
    given_.record(operations_);
    given_.hold(stream_);
    for (std::size_t at = 0; at < bytes; at += kPiece)
      check(cudaMemcpyAsync(static_cast<std::byte*>(to) + at,
                            static_cast<const std::byte*>(from) + at, std::min(kPiece, bytes - at),
                            cudaMemcpyDeviceToHost, stream_.get()),
            "copy from the device");
    copied_.record(stream_);
  }
  bool arrived() override { return copied_.reached(); }
  void wait() override {
    const mpi::Call call(heartbeat_, "the device");
    copied_.wait();
  }
  void hold() override { copied_.hold(operations_); }

 private:
  static constexpr std::size_t kPiece = std::size_t{64} << 20;
  const Stream& operations_;
  Heartbeat* heartbeat_;
  Stream stream_;
  Event given_, copied_;
};

std::string device_name() {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "current device");
  check(cudaGetDeviceProperties(&properties, device), "device properties");
  return std::string("cuda ") + properties.name;
}

}  // namespace

CudaBackend::CudaBackend()
    : name_(device_name()),
      memory_(stream_),
      gemm_(stream_, memory_),
      attention_(*this, stream_, gemm_) {}

// Buffers below must not go before the work that uses them.
CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_.get());
  cudaStreamSynchronize(beside_.get());
}

void CudaBackend::upload(void* to, const void* from, std::size_t bytes) {
  uploader_.copy(to, from, bytes, stream_);
}

void CudaBackend::upload_beside(void* to, const void* from, std::size_t bytes) {
  given_.hold(beside_);
  given_.record(stream_);
  uploader_.copy(to, from, bytes, beside_);
  copied_.record(beside_);
  copied_.hold(stream_);
}

void CudaBackend::download(void* to, const void* from, std::size_t bytes) {
  const mpi::Call call(heartbeat_, "the device");
  downloader_.copy(to, from, bytes, stream_);
}

std::unique_ptr<ReadBack> CudaBackend::make_read_back() {
  return std::make_unique<CudaReadBack>(stream_, heartbeat_);
}

void CudaBackend::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0)
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_.get()),
          "copy within the device");
}

void CudaBackend::zero(void* to, std::size_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(to, 0, bytes, stream_.get()), "zero device memory");
}

void CudaBackend::prepare(const StepShape& shape) {
  check_layernorm_columns(shape.hidden);
  reserve(step_workspace_bytes(shape));
  if (step_bias_bytes(shape) > bias_.bytes())
    bias_ = Tensor(shape.compute, 1, shape.qkv_cols, memory_);
}

void CudaBackend::reserve(std::size_t bytes) {
  if (bytes <= workspace_.size()) return;
  stream_.wait();  // somebody may still use the smaller one
  workspace_ = {};
  workspace_ = Buffer<std::byte>(bytes, memory_);
}

Launch CudaBackend::launch(std::size_t workspace_bytes) {
  reserve(workspace_bytes);
  return {stream_.get(), workspace_.data(), workspace_.size()};
}

const void* CudaBackend::bias_as(DType dtype, std::span<const float> bias) {
  if (bias.empty() || dtype == DType::f32) return bias.data();
  const auto size = static_cast<std::int64_t>(bias.size());
  if (bias_.view().cols < size) {
    stream_.wait();
    bias_ = Tensor(dtype, 1, size, memory_);
  }
  const TensorView converted = bias_.view().col_slice(0, size);
  cuda::convert(launch(), converted, vector_view(bias));
  return converted.data;
}

void CudaBackend::do_gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
                          bool accumulate, std::span<const float> bias) {
  GemmShape shape = shape_of(out, a, b, transpose);
  shape.bias = !bias.empty();
  if (shape.m == 0 || shape.n == 0) return;
  if (shape.k == 0) {
    ensure(bias.empty(), "a product over nothing has no bias");
    if (!accumulate) zero_rows(launch(), out);
    return;
  }
  gemm_.multiply(shape, {.out = out.data,
                         .a = a.data,
                         .b = b.data,
                         .bias = bias_as(out.dtype, bias),
                         .accumulate = accumulate});
}

void CudaBackend::do_embed_forward(TensorView x, std::span<const std::int32_t> ids,
                                   std::span<const std::int32_t> positions, ConstTensorView word,
                                   std::int64_t word_begin, ConstTensorView position,
                                   ConstTensorView type, bool word_only) {
  cuda::embed_forward(launch(), x, ids, positions, word, word_begin, position, type, word_only);
}

void CudaBackend::do_embed_backward(TensorView dword, std::int64_t word_begin, TensorView dposition,
                                    TensorView dtype_row, ConstTensorView dx, const Grouping& ids,
                                    const Grouping& positions, std::int32_t padding_id) {
  cuda::embed_backward(launch(embed_backward_workspace(dx.rows, dx.cols)), dword, word_begin,
                       dposition, dtype_row, dx, ids, positions, padding_id);
}

void CudaBackend::do_bias_gelu_forward(TensorView out, ConstTensorView pre,
                                       std::span<const float> bias) {
  cuda::bias_gelu_forward(launch(), out, pre, bias);
}

void CudaBackend::do_bias_gelu_backward(TensorView dpre, std::span<float> dbias,
                                        ConstTensorView dout, ConstTensorView pre,
                                        std::span<const float> bias) {
  cuda::bias_gelu_backward(launch(bias_gelu_backward_workspace(pre.rows, pre.cols)), dpre, dbias,
                           dout, pre, bias);
}

void CudaBackend::do_add_layernorm_forward(const AddLayerNorm& op) {
  cuda::add_layernorm_forward(launch(), op);
}

void CudaBackend::do_add_layernorm_backward(const AddLayerNormBackward& op) {
  cuda::add_layernorm_backward(launch(add_layernorm_backward_workspace(op.dsum.rows, op.dsum.cols)),
                               op);
}

void CudaBackend::do_dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid) {
  if (dropout.active()) cuda::dropout(launch(), x, dropout, grid);
}

void CudaBackend::do_attention_forward(TensorView out, TensorView lse, ConstTensorView qkv,
                                       const Attention& op) {
  AttentionEngine& engine = attention_.current();
  engine.forward(launch(engine.forward_workspace(qkv, op)), {out, lse, qkv}, op);
}

void CudaBackend::do_attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                                        ConstTensorView out, ConstTensorView lse,
                                        const Attention& op) {
  AttentionEngine& engine = attention_.current();
  engine.backward(launch(engine.backward_workspace(qkv, op)), {dqkv, dout, qkv, out, lse}, op);
}

void CudaBackend::do_gather_rows(TensorView out, ConstTensorView x,
                                 std::span<const std::int32_t> rows) {
  cuda::gather_rows(launch(), out, x, rows);
}

void CudaBackend::do_scatter_rows(TensorView out, ConstTensorView x,
                                  std::span<const std::int32_t> rows) {
  cuda::scatter_rows(launch(), out, x, rows);
}

void CudaBackend::do_column_sum(std::span<float> out, ConstTensorView x) {
  cuda::column_sum(launch(column_sum_workspace(x.rows, x.cols)), out, x);
}

void CudaBackend::do_add(TensorView out, ConstTensorView a, ConstTensorView b) {
  cuda::add(launch(), out, a, b);
}

void CudaBackend::do_convert(TensorView out, ConstTensorView in) {
  cuda::convert(launch(), out, in);
}

void CudaBackend::do_cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                              std::span<const float> bias,
                                              std::span<const std::int32_t> target,
                                              const VocabularyPart& part) {
  cuda::cross_entropy_statistics(launch(), statistics, logits, bias, target, part);
}

void CudaBackend::do_cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                                        ConstTensorView statistics, const CrossEntropyRows& rows) {
  cuda::cross_entropy_loss(launch(), lse, row_loss, statistics, rows);
}

void CudaBackend::do_cross_entropy_backward(TensorView dlogits, std::span<float> dbias,
                                            ConstTensorView logits, std::span<const float> bias,
                                            std::span<const float> lse,
                                            const CrossEntropyRows& rows,
                                            const VocabularyPart& part) {
  cuda::cross_entropy_backward(launch(cross_entropy_backward_workspace(logits.rows, logits.cols)),
                               dlogits, dbias, logits, bias, lse, rows, part);
}

void CudaBackend::do_fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                                     std::span<const float> grad, const ScaledPieces& pieces) {
  cuda::fixed_point_add(launch(), acc, largest, grad, pieces);
}

void CudaBackend::do_max_abs(std::span<float> largest, std::span<const float> values) {
  const auto size = static_cast<std::int64_t>(values.size());
  cuda::max_abs(launch(max_abs_workspace(size)), largest, values);
}

void CudaBackend::do_fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                                          const ScaledPieces& pieces) {
  cuda::fixed_point_to_float(launch(), out, acc, pieces);
}

void CudaBackend::do_fixed_point_round(std::span<float> out, std::span<const float> grad,
                                       const ScaledPieces& pieces) {
  cuda::fixed_point_round(launch(), out, grad, pieces);
}

void CudaBackend::do_tile_sum_squares(std::span<double> out, std::span<const float> values) {
  cuda::tile_sum_squares(launch(), out, values);
}

void CudaBackend::do_adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                           std::span<const float> grad, TensorView work, const AdamW& op) {
  cuda::adamw(launch(), param, m, v, grad, work, op);
}

}  // namespace demist::cuda
