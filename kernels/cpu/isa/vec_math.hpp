// Elementary functions on vectors of floats.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cpu/isa/vec.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

inline Vec sqrt(Vec x) {
#ifdef __AVX512F__
  return (Vec)_mm512_sqrt_ps((__m512)x);
#else
  return (Vec)_mm256_sqrt_ps((__m256)x);
#endif
}

// e^x for x <= 88, within 2 ulp; 0 where e^x < 2^-126 or so (also for -infinity). NaN stays.
// x = n ln 2 + r, |r| <= ln 2 / 2; the polynomial for e^r is that of Cephes' expf (Moshier).
[[gnu::always_inline]] inline Vec exp(Vec x) {
  constexpr float kRoundToInteger = 0x1.8p23f;  // adding it leaves n in the lowest bits
#ifdef __AVX512F__
  constexpr float kSmallest = -105.0f;  // e^-105 < 2^-150 rounds to 0
#else
  constexpr float kSmallest = -87.33f;
#endif
  const Vec clamped = max(broadcast(kSmallest), x);
  const Vec shifted = clamped * 1.44269504088896341f + kRoundToInteger;
  const Vec n = shifted - kRoundToInteger;
  const Vec r = clamped - n * 0.693359375f - n * -2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
#ifdef __AVX512F__
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const Vec power = (Vec)(((VecUint)shifted << 23) + 0x3f800000u);
  return x < kSmallest ? Vec{} : p * power;
#endif
}

template <int kCount>
[[gnu::always_inline]] inline Vec polynomial(const float (&coefficient)[kCount], Vec s) {
  Vec p = broadcast(coefficient[kCount - 1]);
  for (int i = kCount - 2; i >= 0; --i) p = p * s + coefficient[i];
  return p;
}

// Phi is the standard normal distribution function, gelu(x) = x Phi(x) (Hendrycks and Gimpel 2016).
// (Phi(x) - 1/2) / x and (gelu'(x) - 1/2) / x are entire functions of x^2: no exponential, no
// division. The coefficients interpolate them at the Chebyshev nodes of s = 2 (x / limit)^2 - 1 on
// [-1, 1]; beyond the limit Phi is 0 or 1 to fp32 precision.

// Absolute error below 6e-7 for |x| < 6, relative to the fp32 tensor's norm about 5e-8.
[[gnu::always_inline]] inline Vec gelu(Vec x) {
  constexpr float kLimit = 5.5f;
  constexpr float kCoefficients[] = {
      0.12855193f,     -0.0641723275f,   0.0477377847f,   -0.0387934074f,
      0.0320674293f,   -0.0260403696f,   0.0203835722f,   -0.0150423506f,
      0.0101677552f,   -0.00670017209f,  0.0047183563f,   -0.00259371055f,
      0.000643707812f, -0.000400195771f, 0.000655148178f, -0.000274066027f};
  const Vec clamped = max(broadcast(-kLimit), min(broadcast(kLimit), x));
  const Vec s = clamped * clamped * (2 / (kLimit * kLimit)) - 1.0f;
  const Vec phi = clamped * polynomial(kCoefficients, s) + 0.5f;
  return x < -kLimit ? Vec{} : x * phi;
}

// Absolute error below 2e-7.
[[gnu::always_inline]] inline Vec gelu_derivative(Vec x) {
  constexpr float kLimit = 5.8f;
  constexpr float kCoefficients[] = {
      0.121998779f,    -0.0616575181f, 0.0486352965f,  -0.0461942852f, 0.0501759537f,
      -0.0577604957f,  0.0649505332f,  -0.069354482f,  0.0703534782f,  -0.061518237f,
      0.0423588455f,   -0.0339998081f, 0.0367246903f,  -0.0209052097f, -0.000797831803f,
      -0.00103632186f, 0.00764597487f, -0.00341245695f};
  const Vec clamped = max(broadcast(-kLimit), min(broadcast(kLimit), x));
  const Vec s = clamped * clamped * (2 / (kLimit * kLimit)) - 1.0f;
  return clamped * polynomial(kCoefficients, s) + 0.5f;
}

}  // namespace
}  // namespace demist::cpu::DEMIST_ISA
