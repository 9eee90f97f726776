// The CUDA backend: queues every operation on one stream of one device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "core/heartbeat.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda/attention_engines.hpp"
#include "kernels/cuda/device_memory.hpp"
#include "kernels/cuda/gemm.hpp"
#include "kernels/cuda/runtime.hpp"
#include "kernels/cuda/workspace.hpp"

namespace demist::cuda {

// On the device that is current for the calling thread, which must stay so. Workspace grows to what
// the largest operation needs: after prepare() no step allocates.
class CudaBackend final : public Backend {
 public:
  CudaBackend();
  ~CudaBackend() override;
  std::string name() const override { return name_; }
  Memory& memory() override { return memory_; }
  const Stream& stream() const { return stream_; }
  // Shows when the host waits for the device: it may in turn wait for other ranks.
  void watched_by(Heartbeat* heartbeat) { heartbeat_ = heartbeat; }

  void upload(void* to, const void* from, std::size_t bytes) override;
  void upload_beside(void* to, const void* from, std::size_t bytes) override;
  void download(void* to, const void* from, std::size_t bytes) override;
  std::unique_ptr<ReadBack> make_read_back() override;
  Memory& host_memory() override { return PinnedMemory::instance(); }
  void copy(void* to, const void* from, std::size_t bytes) override;
  void zero(void* to, std::size_t bytes) override;
  void prepare(const StepShape& shape) override;
  ProductChooser* product_chooser() override { return &gemm_; }
  AttentionEngines* attention_chooser() override { return &attention_; }

 private:
  void do_gemm(TensorView out, ConstTensorView a, ConstTensorView b, Transpose transpose,
               bool accumulate, std::span<const float> bias) override;
  void do_embed_forward(TensorView x, std::span<const std::int32_t> ids,
                        std::span<const std::int32_t> positions, ConstTensorView word,
                        std::int64_t word_begin, ConstTensorView position, ConstTensorView type,
                        bool word_only) override;
  void do_embed_backward(TensorView dword, std::int64_t word_begin, TensorView dposition,
                         TensorView dtype_row, ConstTensorView dx, const Grouping& ids,
                         const Grouping& positions, std::int32_t padding_id) override;
  void do_bias_gelu_forward(TensorView out, ConstTensorView pre,
                            std::span<const float> bias) override;
  void do_bias_gelu_backward(TensorView dpre, std::span<float> dbias, ConstTensorView dout,
                             ConstTensorView pre, std::span<const float> bias) override;
  void do_add_layernorm_forward(const AddLayerNorm& op) override;
  void do_add_layernorm_backward(const AddLayerNormBackward& op) override;
  void do_dropout(TensorView x, const Dropout& dropout, const TokenGrid& grid) override;
  void do_attention_forward(TensorView out, TensorView lse, ConstTensorView qkv,
                            const Attention& op) override;
  void do_attention_backward(TensorView dqkv, ConstTensorView dout, ConstTensorView qkv,
                             ConstTensorView out, ConstTensorView lse,
                             const Attention& op) override;
  void do_gather_rows(TensorView out, ConstTensorView x,
                      std::span<const std::int32_t> rows) override;
  void do_scatter_rows(TensorView out, ConstTensorView x,
                       std::span<const std::int32_t> rows) override;
  void do_column_sum(std::span<float> out, ConstTensorView x) override;
  void do_add(TensorView out, ConstTensorView a, ConstTensorView b) override;
  void do_convert(TensorView out, ConstTensorView in) override;
  void do_cross_entropy_statistics(TensorView statistics, ConstTensorView logits,
                                   std::span<const float> bias,
                                   std::span<const std::int32_t> target,
                                   const VocabularyPart& part) override;
  void do_cross_entropy_loss(std::span<float> lse, std::span<double> row_loss,
                             ConstTensorView statistics, const CrossEntropyRows& rows) override;
  void do_cross_entropy_backward(TensorView dlogits, std::span<float> dbias, ConstTensorView logits,
                                 std::span<const float> bias, std::span<const float> lse,
                                 const CrossEntropyRows& rows, const VocabularyPart& part) override;
  void do_fixed_point_add(std::span<std::int64_t> acc, std::span<float> largest,
                          std::span<const float> grad, const ScaledPieces& pieces) override;
  void do_max_abs(std::span<float> largest, std::span<const float> values) override;
  void do_fixed_point_round(std::span<float> out, std::span<const float> grad,
                            const ScaledPieces& pieces) override;
  void do_fixed_point_to_float(std::span<float> out, std::span<const std::int64_t> acc,
                               const ScaledPieces& pieces) override;
  void do_tile_sum_squares(std::span<double> out, std::span<const float> values) override;
  void do_adamw(std::span<float> param, std::span<float> m, std::span<float> v,
                std::span<const float> grad, TensorView work, const AdamW& op) override;

  void reserve(std::size_t bytes);
  Launch launch(std::size_t workspace_bytes = 0);
  // `bias` in the type of a product's output, as cuBLASLt wants it.
  const void* bias_as(DType dtype, std::span<const float> bias);

  std::string name_;
  Heartbeat* heartbeat_ = nullptr;
  Stream stream_, beside_;
  Event given_;   // the operations before the last upload_beside()
  Event copied_;  // what it copied
  DeviceMemory memory_;
  Uploader uploader_;
  Downloader downloader_;
  Gemm gemm_;
  AttentionEngines attention_;
  Buffer<std::byte> workspace_;
  Tensor bias_;
};

}  // namespace demist::cuda
