// Attention engines with a fault: what the check of attention is for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "core/error.hpp"
#include "kernels/cuda/attention_engine.hpp"
#include "kernels/cuda/runtime.hpp"

namespace demist::cuda::test {

enum class AttentionFault {
  none,
  small_v,        // dV is 5 % too small
  one_row,        // one token's out belongs to another
  not_a_number,   // one element of dQ
  unwritten,      // the last token's dK
  unwritten_lse,  // of the last token
  restless,       // another last bit every time
  unsupported,
  thrown,
};
inline constexpr AttentionFault kAttentionFaults[] = {
    AttentionFault::small_v,     AttentionFault::one_row,       AttentionFault::not_a_number,
    AttentionFault::unwritten,   AttentionFault::unwritten_lse, AttentionFault::restless,
    AttentionFault::unsupported, AttentionFault::thrown};

// Another engine's results in bf16, spoiled on the host.
class FaultyAttention final : public AttentionEngine {
 public:
  // `inner` must outlive it.
  FaultyAttention(AttentionEngine& inner, AttentionFault fault) : inner_(inner), fault_(fault) {}

  bool supports(const ConstTensorView& qkv, const Attention& op) const override {
    return fault_ != AttentionFault::unsupported && inner_.supports(qkv, op);
  }
  std::size_t forward_workspace(const ConstTensorView& qkv, const Attention& op) const override {
    return inner_.forward_workspace(qkv, op);
  }
  std::size_t backward_workspace(const ConstTensorView& qkv, const Attention& op) const override {
    return inner_.backward_workspace(qkv, op);
  }
  void forward(const Launch& launch, const AttentionForward& tensors,
               const Attention& op) override {
    if (fault_ == AttentionFault::thrown) throw EnvironmentError("no engine for this graph");
    inner_.forward(launch, tensors, op);
    if (fault_ == AttentionFault::one_row)
      copy(row(tensors.out, 3), row(tensors.out, 4), bytes_of(tensors.out.cols), launch);
    if (fault_ == AttentionFault::unwritten_lse)
      fill(tensors.lse.col_slice(tensors.lse.cols - 1, 1).data, sizeof(float), launch);
  }
  void backward(const Launch& launch, const AttentionBackward& tensors,
                const Attention& op) override {
    inner_.backward(launch, tensors, op);
    const std::int64_t width = op.heads * op.head_dim, last = tensors.dqkv.rows - 1;
    const auto part = [&](int which) { return tensors.dqkv.col_slice(which * width, width); };
    if (fault_ == AttentionFault::not_a_number) fill(row(part(0), 7), bytes_of(1), launch);
    if (fault_ == AttentionFault::unwritten) fill(row(part(1), last), bytes_of(width), launch);
    if (fault_ == AttentionFault::small_v)
      for (std::int64_t t = 0; t <= last; ++t)
        change(row(part(2), t), width, launch,
               [](bf16 x) { return bf16(0.95f * static_cast<float>(x)); });
    if (fault_ == AttentionFault::restless)
      change(row(part(0), 2), 1, launch, [&](bf16 x) {
        return bf16(static_cast<float>(x) * (calls_++ % 2 == 0 ? 1.0f : 1.0078125f));
      });
  }

 private:
  static std::size_t bytes_of(std::int64_t elements) {
    return static_cast<std::size_t>(elements) * sizeof(bf16);
  }
  static void* row(const TensorView& view, std::int64_t r) { return view.row_slice(r, 1).data; }
  static void copy(void* to, const void* from, std::size_t bytes, const Launch& launch) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, launch.stream), "copy");
  }
  // With what the check fills outputs with.
  static void fill(void* to, std::size_t bytes, const Launch& launch) {
    check(cudaMemsetAsync(to, 0xff, bytes, launch.stream), "fill");
  }
  template <class Change>
  static void change(void* at, std::int64_t count, const Launch& launch, Change how) {
    check(cudaStreamSynchronize(launch.stream), "wait");
    std::vector<bf16> values(static_cast<std::size_t>(count));
    check(cudaMemcpy(values.data(), at, bytes_of(count), cudaMemcpyDeviceToHost), "copy");
    for (bf16& x : values) x = how(x);
    check(cudaMemcpy(at, values.data(), bytes_of(count), cudaMemcpyHostToDevice), "copy");
  }

  AttentionEngine& inner_;
  AttentionFault fault_;
  unsigned calls_ = 0;
};

}  // namespace demist::cuda::test
