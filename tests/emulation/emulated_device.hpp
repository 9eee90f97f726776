// CUDA's device names for g++: what the real headers declare for nvcc alone. Included by
// kernels/cuda/device.hpp only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "tests/emulation/emulator.hpp"

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __shared__
#undef __constant__
#define __global__ static  // a kernel is local to its file; the host function is the interface
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __constant__                                             \
  static_assert(false, "pass small tables as kernel arguments"); \
  static
#define __shared__                                                     \
  static_assert(false, "use shared<T, Tag>() or dynamic_shared<T>()"); \
  static
// The emulator's own traffic is no memory access of the kernel.
#define DEMIST_EMULATION_HIDDEN __attribute__((no_sanitize_thread))
#define DEMIST_EMULATION_HERE demist::emu::Location where = demist::emu::Location::current()

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

inline void __syncthreads(DEMIST_EMULATION_HERE) { demist::emu::barrier(where); }
inline void __syncwarp(unsigned mask = ~0u, DEMIST_EMULATION_HERE) {
  demist::emu::collective({"__syncwarp", mask, nullptr, demist::emu::Memory::ordered, where},
                          nullptr, nullptr);
}
// Blocks run one after another, and a race between threads of a block is found without fences.
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace demist::emu {

template <class T>
struct Shuffle {
  T value;
  int source;  // lane
};

template <class T>
DEMIST_EMULATION_HIDDEN void run_shuffle(void* const in[32], void* const out[32], unsigned mask) {
  for (int lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) != 0) {
      const int source = static_cast<const Shuffle<T>*>(in[lane])->source;
      if ((mask >> source & 1) != 0)
        *static_cast<T*>(out[lane]) = static_cast<const Shuffle<T>*>(in[source])->value;
      else  // undefined by the language: poison
        __builtin_memset(out[lane], 0xff, sizeof(T));
    }
}

template <class T>
DEMIST_EMULATION_HIDDEN T shuffle(const char* name, unsigned mask, T value, int source,
                                  Location where) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  Shuffle<T> in{value, source};
  T out{};
  collective({name, mask, run_shuffle<T>, Memory::unordered, where}, &in, &out);
  return out;
}

DEMIST_EMULATION_HIDDEN inline void run_ballot(void* const in[32], void* const out[32],
                                               unsigned mask) {
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) != 0 && *static_cast<const bool*>(in[lane])) bits |= 1u << lane;
  for (int lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) != 0) *static_cast<unsigned*>(out[lane]) = bits;
}

DEMIST_EMULATION_HIDDEN inline unsigned ballot(const char* name, unsigned mask, bool predicate,
                                               Location where) {
  unsigned out = 0;
  collective({name, mask, run_ballot, Memory::unordered, where}, &predicate, &out);
  return out;
}

inline int segment(int width) { return lane() / width * width; }
// `source` if it is in the calling lane's segment, else the lane itself.
inline int within(int source, int width) {
  const int first = segment(width);
  return source >= first && source < first + width ? source : lane();
}

}  // namespace demist::emu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, DEMIST_EMULATION_HERE) {
  const int lane = demist::emu::segment(width) + (source & (width - 1));
  return demist::emu::shuffle("__shfl_sync", mask, value, lane, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, DEMIST_EMULATION_HERE) {
  // A lane may read lower segments of its warp, not higher ones.
  const int source = demist::emu::lane() ^ bits;
  const bool reachable = source < demist::emu::segment(width) + width;
  return demist::emu::shuffle("__shfl_xor_sync", mask, value,
                              reachable ? source : demist::emu::lane(), where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, DEMIST_EMULATION_HERE) {
  const int source = demist::emu::within(demist::emu::lane() + static_cast<int>(delta), width);
  return demist::emu::shuffle("__shfl_down_sync", mask, value, source, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, DEMIST_EMULATION_HERE) {
  const int source = demist::emu::within(demist::emu::lane() - static_cast<int>(delta), width);
  return demist::emu::shuffle("__shfl_up_sync", mask, value, source, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, DEMIST_EMULATION_HERE) {
  return demist::emu::ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, DEMIST_EMULATION_HERE) {
  return demist::emu::ballot("__any_sync", mask, predicate != 0, where) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, DEMIST_EMULATION_HERE) {
  return demist::emu::ballot("__all_sync", mask, predicate == 0, where) == 0 ? 1 : 0;
}
inline unsigned __activemask() = delete;  // tells nothing reliable; write the mask out

namespace demist::emu {
template <class T>
const T* aligned(const T* p, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(p) % sizeof(T) != 0)
    fail(std::string(name) + ": address is no multiple of " + std::to_string(sizeof(T)));
  return p;
}
}  // namespace demist::emu

template <class T>
T __ldg(const T* p) {
  return *demist::emu::aligned(p, "__ldg");
}
template <class T>
T __ldcs(const T* p) {
  return *demist::emu::aligned(p, "__ldcs");
}
template <class T>
void __stcs(T* p, T value) {
  *const_cast<T*>(demist::emu::aligned(p, "__stcs")) = value;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

namespace demist::emu {
// To the nearest, ties to even; too large values go to the ends of the range. PTX gives NaN as 0
// for 32-bit results and as the lowest number for 64-bit ones.
template <class I, class F>
I round_to(F x, I nan) {
  constexpr F kAbove = static_cast<F>(std::uint64_t{1} << (sizeof(I) * 8 - 1));
  if (std::isnan(x)) return nan;
  const F rounded = std::nearbyint(x);
  if (rounded >= kAbove) return std::numeric_limits<I>::max();
  if (rounded < -kAbove) return std::numeric_limits<I>::min();
  return static_cast<I>(rounded);
}
}  // namespace demist::emu

inline int __float2int_rn(float x) { return demist::emu::round_to<int>(x, 0); }
inline long long __float2ll_rn(float x) {
  return demist::emu::round_to<long long>(x, std::numeric_limits<long long>::min());
}
inline long long __double2ll_rn(double x) {
  return demist::emu::round_to<long long>(x, std::numeric_limits<long long>::min());
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

namespace demist::emu {
// A device's atomics order nothing else; integers only, because the product adds no floats so.
template <class T, class F>
T atomic(T* p, F next_of) {
  static_assert(std::is_integral_v<T>, "sums of floats have a fixed order here: no atomics");
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, next_of(old), true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return old;
}
}  // namespace demist::emu

// The types of CUDA's own overloads, and no others.
#define DEMIST_EMULATION_ATOMIC(name, T, result)                           \
  inline T name(T* p, T value) {                                           \
    return demist::emu::atomic(p, [value](T old) -> T { return result; }); \
  }
DEMIST_EMULATION_ATOMIC(atomicAdd, int,
                        static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
DEMIST_EMULATION_ATOMIC(atomicAdd, unsigned, old + value)
DEMIST_EMULATION_ATOMIC(atomicAdd, unsigned long long, old + value)
DEMIST_EMULATION_ATOMIC(atomicMax, int, old < value ? value : old)
DEMIST_EMULATION_ATOMIC(atomicMax, unsigned, old < value ? value : old)
DEMIST_EMULATION_ATOMIC(atomicMax, long long, old < value ? value : old)
DEMIST_EMULATION_ATOMIC(atomicMax, unsigned long long, old < value ? value : old)
DEMIST_EMULATION_ATOMIC(atomicMin, int, old < value ? old : value)
DEMIST_EMULATION_ATOMIC(atomicMin, unsigned, old < value ? old : value)
DEMIST_EMULATION_ATOMIC(atomicMin, long long, old < value ? old : value)
DEMIST_EMULATION_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
DEMIST_EMULATION_ATOMIC(atomicOr, unsigned, old | value)
DEMIST_EMULATION_ATOMIC(atomicAnd, unsigned, old& value)
DEMIST_EMULATION_ATOMIC(atomicExch, int, (static_cast<void>(old), value))
DEMIST_EMULATION_ATOMIC(atomicExch, unsigned, (static_cast<void>(old), value))
#undef DEMIST_EMULATION_ATOMIC
inline int atomicCAS(int* p, int expected, int desired) {
  return demist::emu::atomic(p, [=](int old) { return old == expected ? desired : old; });
}
inline unsigned atomicCAS(unsigned* p, unsigned expected, unsigned desired) {
  return demist::emu::atomic(p, [=](unsigned old) { return old == expected ? desired : old; });
}

#include "tests/emulation/emulated_tensor_core.hpp"

#undef DEMIST_EMULATION_HERE
