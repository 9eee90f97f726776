// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.hpp"
#include "kernels/cpu/isa/vec.hpp"

namespace demist::cpu::DEMIST_ISA {

constexpr IsaKernels kKernels = {
    .name = kIsaName,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .embed_forward = embed_forward,
    .add_rows = add_rows,
    .bias_gelu_forward = bias_gelu_forward,
    .bias_gelu_backward = bias_gelu_backward,
    .add_layernorm_forward = add_layernorm_forward,
    .add_layernorm_backward = add_layernorm_backward,
    .dropout = dropout,
    .column_sum = column_sum,
    .add = add,
    .convert = convert,
    .cross_entropy_statistics = cross_entropy_statistics,
    .cross_entropy_backward = cross_entropy_backward,
    .fixed_point_add = fixed_point_add,
    .max_abs = max_abs,
    .fixed_point_to_float = fixed_point_to_float,
    .fixed_point_round = fixed_point_round,
    .sum_squares = sum_squares,
    .adamw = adamw,
};

#ifdef __AVX512BF16__
namespace {
consteval IsaKernels with_pairs(IsaKernels kernels) {
  kernels.name = "avx512_bf16";
  kernels.attention_forward = attention_forward_of_pairs;
  kernels.attention_backward = attention_backward_of_pairs;
  return kernels;
}
}  // namespace

// Nothing is computed at start: this file's code must not run on a machine without AVX-512.
constinit const IsaKernels kKernelsOfPairs = with_pairs(kKernels);
#endif

}  // namespace demist::cpu::DEMIST_ISA
