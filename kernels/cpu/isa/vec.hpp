// A register of floats under one name for both instruction sets, by GCC's vector extensions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/tensor.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

#ifdef __AVX512F__
constexpr const char* kIsaName = "avx512";
constexpr int kLanes = 16;
#else
constexpr const char* kIsaName = "avx2";
constexpr int kLanes = 8;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t VecUint __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t VecHalf __attribute__((vector_size(2 * kLanes)));

// Says that all lanes are in use; a tail is an int, 0 < count < kLanes.
struct Full {};

// Calls body(i, Full) for whole vectors of [0, n), then body(i, int count) for the rest.
template <class Body>
[[gnu::always_inline]] inline void for_lanes(std::int64_t n, Body&& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Full{});
  if (i < n) body(i, static_cast<int>(n - i));
}

inline Vec broadcast(float x) { return x - Vec{}; }

inline Vec load(const float* p, Full = {}) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void store(float* p, Vec v, Full = {}) { std::memcpy(p, &v, sizeof(v)); }

inline VecUint widen(VecHalf h) {
#ifdef __AVX512F__
  return (VecUint)_mm512_cvtepu16_epi32((__m256i)h);
#else
  return (VecUint)_mm256_cvtepu16_epi32((__m128i)h);
#endif
}

inline Vec load(const bf16* p, Full = {}) {
  VecHalf h;
  std::memcpy(&h, p, sizeof(h));
  return (Vec)(widen(h) << 16);
}

// Round to nearest even. AVX-512's own instruction takes numbers below 2^-126 as 0.
inline VecHalf round_to_bf16(Vec v) {
#ifdef __AVX512F__
  return (VecHalf)_mm512_cvtneps_pbh((__m512)v);
#else
  const VecUint u = (VecUint)v;
  const VecUint rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const VecUint nan = (u >> 16) | 0x40u;
  const VecUint r = (u & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
  return __builtin_convertvector(r, VecHalf);
#endif
}
inline void store(bf16* p, Vec v, Full = {}) {
  const VecHalf h = round_to_bf16(v);
  std::memcpy(static_cast<void*>(p), &h, sizeof(h));
}

// Tails: lanes beyond count read as 0 and are not written.
template <class T>
inline Vec load(const T* p, int count) {
  T lanes[kLanes] = {};
  std::memcpy(static_cast<void*>(lanes), p, static_cast<std::size_t>(count) * sizeof(T));
  return load(lanes);
}
template <class T>
inline void store(T* p, Vec v, int count) {
  T lanes[kLanes];
  store(lanes, v);
  std::memcpy(static_cast<void*>(p), lanes, static_cast<std::size_t>(count) * sizeof(T));
}

// What a value becomes when stored as T and loaded again.
inline Vec rounded(Vec v, const float*) { return v; }
inline Vec rounded(Vec v, const bf16*) { return (Vec)(widen(round_to_bf16(v)) << 16); }

// The second operand where either is NaN, as the instructions do.
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }

inline float horizontal_sum(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
inline float horizontal_max(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float result = lanes[0];
  for (int i = 1; i < kLanes; ++i) result = lanes[i] > result ? lanes[i] : result;
  return result;
}

// First element of row r; the caller has looked at the dtype.
template <class T>
inline const T* row(const ConstTensorView& view, std::int64_t r) {
  return static_cast<const T*>(view.data) + r * view.ld;
}
template <class T>
inline T* row(const TensorView& view, std::int64_t r) {
  return static_cast<T*>(view.data) + r * view.ld;
}

}  // namespace
}  // namespace demist::cpu::DEMIST_ISA
