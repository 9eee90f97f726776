// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_engines.hpp"

#include "kernels/cuda/attention_check.hpp"
#include "kernels/cuda/attention_cudnn.hpp"

namespace demist::cuda {
namespace {

class UnfusedAttention final : public AttentionEngine {
 public:
  explicit UnfusedAttention(BatchedGemm& gemm) : gemm_(gemm) {}
  bool supports(const ConstTensorView&, const Attention&) const override { return true; }
  std::size_t forward_workspace(const ConstTensorView& qkv, const Attention& op) const override {
    return unfused_attention_forward_workspace(op, qkv.dtype);
  }
  std::size_t backward_workspace(const ConstTensorView& qkv, const Attention& op) const override {
    return unfused_attention_backward_workspace(op, qkv.dtype);
  }
  void forward(const Launch& launch, const AttentionForward& tensors,
               const Attention& op) override {
    unfused_attention_forward(launch, tensors, op, gemm_);
  }
  void backward(const Launch& launch, const AttentionBackward& tensors,
                const Attention& op) override {
    unfused_attention_backward(launch, tensors, op, gemm_);
  }

 private:
  BatchedGemm& gemm_;
};

class FusedAttention final : public AttentionEngine {
 public:
  bool supports(const ConstTensorView& qkv, const Attention& op) const override {
    return fused_attention_supports(qkv, op);
  }
  std::size_t forward_workspace(const ConstTensorView&, const Attention&) const override {
    return 0;
  }
  std::size_t backward_workspace(const ConstTensorView&, const Attention& op) const override {
    return fused_attention_workspace(op);
  }
  void forward(const Launch& launch, const AttentionForward& tensors,
               const Attention& op) override {
    fused_attention_forward(launch, tensors, op);
  }
  void backward(const Launch& launch, const AttentionBackward& tensors,
                const Attention& op) override {
    fused_attention_backward(launch, tensors, op);
  }
};

// The fused kernels where they apply, else the other path.
class OwnAttention final : public AttentionEngine {
 public:
  explicit OwnAttention(AttentionEngine& unfused) : unfused_(unfused) {}
  bool supports(const ConstTensorView&, const Attention&) const override { return true; }
  std::size_t forward_workspace(const ConstTensorView& qkv, const Attention& op) const override {
    return of(qkv, op).forward_workspace(qkv, op);
  }
  std::size_t backward_workspace(const ConstTensorView& qkv, const Attention& op) const override {
    return of(qkv, op).backward_workspace(qkv, op);
  }
  void forward(const Launch& launch, const AttentionForward& tensors,
               const Attention& op) override {
    of(tensors.qkv, op).forward(launch, tensors, op);
  }
  void backward(const Launch& launch, const AttentionBackward& tensors,
                const Attention& op) override {
    of(tensors.qkv, op).backward(launch, tensors, op);
  }

 private:
  AttentionEngine& of(const ConstTensorView& qkv, const Attention& op) const {
    return fused_->supports(qkv, op) ? *fused_ : unfused_;
  }

  const std::unique_ptr<AttentionEngine> fused_ = std::make_unique<FusedAttention>();
  AttentionEngine& unfused_;
};

}  // namespace

AttentionEngines::AttentionEngines(Backend& backend, const Stream& stream, BatchedGemm& gemm)
    : backend_(backend),
      stream_(stream),
      unfused_(std::make_unique<UnfusedAttention>(gemm)),
      own_(std::make_unique<OwnAttention>(*unfused_)),
      cudnn_version_(cuda::cudnn_version()),
      current_(own_.get()) {}

AttentionEngines::~AttentionEngines() = default;

AttentionEngine& AttentionEngines::engine(AttentionPath path) {
  if (path == AttentionPath::own) return *own_;
  if (path == AttentionPath::unfused) return *unfused_;
  if (!cudnn_) cudnn_ = make_cudnn_attention(stream_, backend_.memory());
  return *cudnn_;
}

std::string AttentionEngines::check(AttentionPath path, const AttentionShape& shape) {
  try {
    return check_attention({backend_, stream_, engine(path), *unfused_}, shape);
  } catch (const EnvironmentError& error) {
    stream_.wait();  // throws again when the device itself is lost
    return error.what();
  }
}

void AttentionEngines::pretend_cudnn(std::unique_ptr<AttentionEngine> engine, std::size_t version) {
  cudnn_ = std::move(engine);
  cudnn_version_ = version;
}

}  // namespace demist::cuda
