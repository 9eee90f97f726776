// The kernels that every instruction set defines, each in its own namespace.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "kernels/cpu/isa_kernels.hpp"

// Code in this folder is compiled once per instruction set. An inline function that is not inlined
// leaves one copy per object file, and the linker keeps any one of them: a machine without AVX-512
// could then run the AVX-512 copy. So helpers here have internal linkage, and inline functions of
// shared headers (views' members, std::) are used only where they are sure to be inlined. The test
// `isa_symbols` looks at the object files.
namespace demist::cpu::DEMIST_ISA {

template <class Pointer>
using FunctionOf = std::remove_pointer_t<Pointer>;

FunctionOf<decltype(IsaKernels::attention_forward)> attention_forward;
FunctionOf<decltype(IsaKernels::attention_backward)> attention_backward;
#ifdef __AVX512BF16__
FunctionOf<decltype(IsaKernels::attention_forward)> attention_forward_of_pairs;
FunctionOf<decltype(IsaKernels::attention_backward)> attention_backward_of_pairs;
#endif
FunctionOf<decltype(IsaKernels::embed_forward)> embed_forward;
FunctionOf<decltype(IsaKernels::add_rows)> add_rows;
FunctionOf<decltype(IsaKernels::bias_gelu_forward)> bias_gelu_forward;
FunctionOf<decltype(IsaKernels::bias_gelu_backward)> bias_gelu_backward;
FunctionOf<decltype(IsaKernels::add_layernorm_forward)> add_layernorm_forward;
FunctionOf<decltype(IsaKernels::add_layernorm_backward)> add_layernorm_backward;
FunctionOf<decltype(IsaKernels::dropout)> dropout;
FunctionOf<decltype(IsaKernels::column_sum)> column_sum;
FunctionOf<decltype(IsaKernels::add)> add;
FunctionOf<decltype(IsaKernels::convert)> convert;
FunctionOf<decltype(IsaKernels::cross_entropy_statistics)> cross_entropy_statistics;
FunctionOf<decltype(IsaKernels::cross_entropy_backward)> cross_entropy_backward;
FunctionOf<decltype(IsaKernels::fixed_point_add)> fixed_point_add;
FunctionOf<decltype(IsaKernels::max_abs)> max_abs;
FunctionOf<decltype(IsaKernels::fixed_point_to_float)> fixed_point_to_float;
FunctionOf<decltype(IsaKernels::fixed_point_round)> fixed_point_round;
FunctionOf<decltype(IsaKernels::sum_squares)> sum_squares;
FunctionOf<decltype(IsaKernels::adamw)> adamw;

}  // namespace demist::cpu::DEMIST_ISA
