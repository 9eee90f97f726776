// Device primitives: all that a kernel source includes from CUDA.
// nvcc gets thin wrappers over CUDA and PTX; g++ with DEMIST_EMULATED gets the emulated device of
// tests/emulation, which knows the same names. Kernels are written once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef DEMIST_EMULATED
#include "tests/emulation/emulated_device.hpp"
#endif
#include "kernels/cuda/launch.hpp"

namespace demist::cuda {

using bf16 = __nv_bfloat16;

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarpSize = 32;

// 16 bytes of T: the widest access a thread can make.
template <class T>
struct alignas(16) Vec16 {
  static constexpr int kSize = 16 / sizeof(T);
  T item[kSize];
  __device__ T& operator[](int i) { return item[i]; }
  __device__ const T& operator[](int i) const { return item[i]; }
};

#ifndef DEMIST_EMULATED

// A block's shared object of static size, named by a tag:
// auto& sums = shared<float[32], struct RowSums>();
template <class T, class Tag>
__device__ __forceinline__ T& shared() {
  __shared__ T object;
  return object;
}

// The bytes that the launch asked for.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ uint4 dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
}

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// d = a b + c on one 16x8x16 tile, fragments as PTX mma.sync.m16n8k16 lays them out. With
// g = lane / 4 and t = lane % 4 * 2: a[i] = A[g + i % 2 * 8][t + i / 2 * 8 + {0, 1}],
// b[i] = B[t + i * 8 + {0, 1}][g], c[i] = C[g + i / 2 * 8][t + i % 2].
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2], const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
}

// Matrix i (8x8 of 16 bits) comes from the rows whose addresses lanes 8 i .. 8 i + 7 pass; lane l
// gets its elements [l / 4][l % 4 * 2 + {0, 1}], low half first. _trans: of the transposed matrix.
__device__ __forceinline__ void ldmatrix_x2(unsigned (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(unsigned (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes, global to shared; zeros where !valid, whose source is not read. Both addresses are
// multiples of 16 bytes. The data is there after copy_async_wait and, for other threads, a barrier.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `groups_left` of this thread's latest groups are on their way.
template <int groups_left>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
}

// 2^x, relative error 2^-22, denormal results are zero.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}

// x itself, of unknown origin to the compiler: it keeps the word, not what the word was made of.
__device__ __forceinline__ unsigned opaque(unsigned x) {
  asm("" : "+r"(x));
  return x;
}

// 16 bytes to device memory in one access. (An assignment is often cut: into four of 4 bytes, or
// beside a branch that stores elements into theirs.)
__device__ __forceinline__ void store_global_16(void* p, uint4 bits) {
  asm volatile("st.global.v4.b32 [%0],{%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(p)),
               "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w)
               : "memory");
}

#endif

namespace detail {
template <class T>
__device__ __forceinline__ Vec16<T> from_bits(uint4 bits) {
  Vec16<T> v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
template <class T>
__device__ __forceinline__ uint4 to_bits(const Vec16<T>& v) {
  uint4 bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
}  // namespace detail

// One 16-byte access at a 16-byte aligned address. _readonly: through the read-only path, for data
// that no thread of this kernel writes. _stream: not worth keeping in the caches. Stores go to
// device memory, not to shared.
template <class T>
__device__ __forceinline__ Vec16<T> load_16(const T* p) {
  return detail::from_bits<T>(*reinterpret_cast<const uint4*>(p));
}
template <class T>
__device__ __forceinline__ Vec16<T> load_readonly_16(const T* p) {
  return detail::from_bits<T>(__ldg(reinterpret_cast<const uint4*>(p)));
}
template <class T>
__device__ __forceinline__ Vec16<T> load_stream_16(const T* p) {
  return detail::from_bits<T>(__ldcs(reinterpret_cast<const uint4*>(p)));
}
template <class T>
__device__ __forceinline__ void store_16(T* p, const Vec16<T>& v) {
  store_global_16(p, detail::to_bits(v));
}
template <class T>
__device__ __forceinline__ void store_stream_16(T* p, const Vec16<T>& v) {
  __stcs(reinterpret_cast<uint4*>(p), detail::to_bits(v));
}

// The 16 bytes at p, which is aligned, as words.
template <class T>
__device__ __forceinline__ Vec16<unsigned> load_words(const T* p) {
  return load_16(reinterpret_cast<const unsigned*>(p));
}
// One access of sizeof(Word) bytes at an address that is a multiple of it.
template <class Word>
__device__ __forceinline__ void store_word(void* p, Word word) {
  *static_cast<Word*>(p) = word;
}

// Every lane gets the result, by a butterfly: the order of additions is the same in every lane.
// float, double, int, std::int64_t.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2)
    value += __shfl_xor_sync(kFullWarp, value, bits);
  return value;
}
// A NaN loses against every number.
template <class T>
__device__ __forceinline__ T warp_max(T value) {
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, value, bits);
    if constexpr (std::is_same_v<T, float>)
      value = fmaxf(value, other);
    else if constexpr (std::is_same_v<T, double>)
      value = fmax(value, other);
    else
      value = value < other ? other : value;
  }
  return value;
}

// Two neighbours of a row in one register: the low half is the first.
__device__ __forceinline__ unsigned pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

}  // namespace demist::cuda
