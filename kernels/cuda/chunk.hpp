// Eight neighbours of a row in fp32 registers: the unit in which row kernels read and write.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "kernels/cuda/device.hpp"

namespace demist::cuda {

// 16 bytes of bf16, 2 x 16 of fp32, 4 x 16 of int64. Of the wider types each access of a warp takes
// one half of its sectors of 32 bytes: the next finds the other half in L1, stores meet in L2, and
// DRAM moves every sector once. L1 and L2 see twice the accesses, and have the bandwidth.
constexpr int kChunk = 8;

// body(0) .. body(kCount - 1) written out, so that arrays indexed by the argument stay in
// registers: a loop with a large body is not unrolled without being told, and #pragma unroll is not
// for g++.
template <int kCount, class Body>
__device__ __forceinline__ void unrolled(Body&& body) {
  const auto each = [&]<int... k>(std::integer_sequence<int, k...>) {
    (body(std::integral_constant<int, k>{}), ...);
  };
  each(std::make_integer_sequence<int, kCount>{});
}

// What a kernel may take for granted about the rows it reads and writes.
enum class Access {
  whole,  // 16-byte aligned rows of a multiple of kChunk columns
  tail,   // 16-byte aligned rows; the last chunk may be shorter
  any,    // neither: element by element
};

struct Chunk {
  float v[kChunk];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ float operator[](int i) const { return v[i]; }
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
// Rounds to nearest, ties to even.
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, float>)
    return x;
  else
    return __float2bfloat16_rn(x);
}

// Whether columns [column, column + kChunk) of a row of `cols` are one aligned piece.
template <Access kAccess>
__device__ __forceinline__ bool is_whole(std::int64_t column, std::int64_t cols) {
  if constexpr (kAccess == Access::whole) return true;
  return kAccess == Access::tail && column + kChunk <= cols;
}

__device__ __forceinline__ Chunk load_whole(const float* p) {
  const Vec16<float> low = load_16(p), high = load_16(p + 4);
  return {{low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]}};
}
__device__ __forceinline__ Chunk load_whole(const bf16* p) {
  const Vec16<bf16> items = load_16(p);
  Chunk chunk;
  for (int i = 0; i < kChunk; ++i) chunk[i] = __bfloat162float(items[i]);
  return chunk;
}
__device__ __forceinline__ void store_whole(float* p, const Chunk& x) {
  store_16(p, Vec16<float>{{x[0], x[1], x[2], x[3]}});
  store_16(p + 4, Vec16<float>{{x[4], x[5], x[6], x[7]}});
}
__device__ __forceinline__ void store_whole(bf16* p, const Chunk& x) {
  Vec16<bf16> items;
  for (int i = 0; i < kChunk; ++i) items[i] = __float2bfloat16_rn(x[i]);
  store_16(p, items);
}

// Columns [column, column + kChunk) of a row; those from `cols` on read as 0 and are not written.
template <Access kAccess, class T>
__device__ __forceinline__ Chunk load_chunk(const T* row, std::int64_t column, std::int64_t cols) {
  if (is_whole<kAccess>(column, cols)) return load_whole(row + column);
  Chunk chunk;
  for (int i = 0; i < kChunk; ++i) chunk[i] = column + i < cols ? to_float(row[column + i]) : 0.0f;
  return chunk;
}
template <Access kAccess, class T>
__device__ __forceinline__ void store_chunk(T* row, std::int64_t column, std::int64_t cols,
                                            const Chunk& x) {
  if (is_whole<kAccess>(column, cols)) {
    store_whole(row + column, x);
    return;
  }
  for (int i = 0; i < kChunk; ++i)
    if (column + i < cols) row[column + i] = from_float<T>(x[i]);
}

// The bits of one chunk, whatever they mean.
template <Access kAccess, class T>
__device__ __forceinline__ void copy_chunk(T* to, const T* from, std::int64_t column,
                                           std::int64_t cols) {
  if (is_whole<kAccess>(column, cols)) {
    constexpr int kStep = Vec16<T>::kSize;
    for (int i = 0; i < kChunk; i += kStep) store_16(to + column + i, load_16(from + column + i));
    return;
  }
  for (int i = 0; i < kChunk; ++i)
    if (column + i < cols) to[column + i] = from[column + i];
}

__device__ __forceinline__ void multiply(Chunk& product, const Chunk& x) {
  unrolled<kChunk>([&](auto i) { product[i] *= x[i]; });
}
__device__ __forceinline__ void add_to(Chunk& sum, const Chunk& x) {
  unrolled<kChunk>([&](auto i) { sum[i] += x[i]; });
}

// A row-major matrix in device memory. T may be const.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t ld = 0;
  __device__ T* operator[](std::int64_t r) const { return data + r * ld; }
  __device__ explicit operator bool() const { return data != nullptr; }
};

}  // namespace demist::cuda
