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

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const std::string& isa) {
  if (!isa.empty() && isa != "avx2" && isa != "avx512")
    throw ConfigError("unknown instruction set \"" + isa + "\"; use avx2 or avx512");
  if (isa == "avx512" && !has_avx512())
    throw EnvironmentError("this machine has no AVX-512 with bf16; use avx2");
  if (!has_avx2())
    throw EnvironmentError("this machine has no AVX2 with FMA, which the CPU kernels need");
  const bool widest = isa != "avx2" && has_avx512();
  return std::make_unique<cpu::CpuBackend>(widest ? cpu::avx512::kKernels : cpu::avx2::kKernels);
}

}  // namespace demist
