// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.hpp"

namespace demist {
namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2");
}

// What kernels/CMakeLists.txt lets the compiler use.
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}

// VDPBF16PS does twice the FLOPs of an FMA a cycle on AMD's processors, fewer than one on Intel's.
bool multiplies_pairs_faster() { return __builtin_cpu_is("amd"); }

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const std::string& isa) {
  if (!isa.empty() && isa != "avx2" && isa != "avx512" && isa != "avx512_bf16")
    throw ConfigError("unknown instruction set \"" + isa + "\"; use avx2, avx512 or avx512_bf16");
  if (isa.starts_with("avx512") && !has_avx512())
    throw EnvironmentError("this machine has no AVX-512 with bf16; use avx2");
  if (!has_avx2())
    throw EnvironmentError("this machine has no AVX2 with FMA, which the CPU kernels need");
  if (isa == "avx2" || !has_avx512()) return std::make_unique<cpu::CpuBackend>(cpu::avx2::kKernels);
  const bool pairs = isa.empty() ? multiplies_pairs_faster() : isa == "avx512_bf16";
  return std::make_unique<cpu::CpuBackend>(pairs ? cpu::avx512::kKernelsOfPairs
                                                 : cpu::avx512::kKernels);
}

}  // namespace demist
