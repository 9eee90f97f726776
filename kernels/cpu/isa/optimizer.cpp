// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.hpp"
#include "kernels/cpu/isa/vec_math.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

constexpr std::int64_t kWide = 8;  // 64-bit elements handled at a time

// Unsigned, since sums that are lost anyway may overflow.
inline void add_one_rounded(std::int64_t* acc, float grad, double scale) {
  const auto term = _mm_cvtsd_si64(_mm_set_sd(static_cast<double>(grad) * scale));
  *acc = static_cast<std::int64_t>(static_cast<std::uint64_t>(*acc) +
                                   static_cast<std::uint64_t>(term));
}

// acc[0, 8) += round(grad * scale), ties to even.
inline void add_rounded(std::int64_t* acc, const float* grad, double scale) {
#ifdef __AVX512F__
  const __m512d product = _mm512_cvtps_pd(_mm256_loadu_ps(grad)) * scale;
  _mm512_storeu_si512(acc, _mm512_add_epi64(_mm512_loadu_si512(acc), _mm512_cvtpd_epi64(product)));
#else
  for (int i = 0; i < kWide; ++i) add_one_rounded(acc + i, grad[i], scale);
#endif
}

// out[0, 8) = fp32(acc) * scale: the conversion rounds once, a power of two is exact.
inline void scaled_floats(float* out, const std::int64_t* acc, double scale) {
#ifdef __AVX512F__
  const __m256 rounded_acc = _mm512_cvtepi64_ps(_mm512_loadu_si512(acc));
  _mm256_storeu_ps(out, _mm512_cvtpd_ps(_mm512_cvtps_pd(rounded_acc) * scale));
#else
  for (int i = 0; i < kWide; ++i)
    out[i] = static_cast<float>(static_cast<double>(static_cast<float>(acc[i])) * scale);
#endif
}

// The bits of |x| are ordered as integers, with infinity and NaN above every finite number.
inline VecUint magnitude(Vec v) { return (VecUint)v & 0x7fffffffu; }

template <class T>
void adamw_range(const AdamWRange& range, T* work, const AdamW& op) {
  const float rest1 = 1 - op.beta1, rest2 = 1 - op.beta2;
  for_lanes(range.count, [&](std::int64_t i, auto count) {
    const Vec g = load(range.grad + i, count) * op.grad_scale;
    const Vec m = load(range.m + i, count) * op.beta1 + g * rest1;
    const Vec v = load(range.v + i, count) * op.beta2 + g * g * rest2;
    const Vec p = load(range.param + i, count);
    const Vec step = m * op.bias_correction1 / (sqrt(v * op.bias_correction2) + op.epsilon);
    const Vec updated = p - (step + p * op.weight_decay) * op.lr;
    store(range.m + i, m, count);
    store(range.v + i, v, count);
    store(range.param + i, updated, count);
    if (work) store(work + i, updated, count);
  });
}

}  // namespace

float max_abs(const float* values, std::int64_t n) {
  VecUint largest = {};
  for_lanes(n, [&](std::int64_t i, auto count) {
    const VecUint bits = magnitude(load(values + i, count));
    largest = bits > largest ? bits : largest;
  });
  std::uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits = largest[lane] > bits ? largest[lane] : bits;
  if (bits >= 0x7f800000u) return __builtin_nanf("");
  return __builtin_bit_cast(float, bits);
}

void fixed_point_add(std::int64_t* acc, const float* grad, std::int64_t n, double scale) {
  std::int64_t i = 0;
  for (; i + kWide <= n; i += kWide) add_rounded(acc + i, grad + i, scale);
  for (; i < n; ++i) add_one_rounded(acc + i, grad[i], scale);
}

void fixed_point_to_float(float* out, const std::int64_t* acc, std::int64_t n, double scale) {
  std::int64_t i = 0;
  for (; i + kWide <= n; i += kWide) scaled_floats(out + i, acc + i, scale);
  for (; i < n; ++i)
    out[i] = static_cast<float>(static_cast<double>(static_cast<float>(acc[i])) * scale);
}

// Through the same two conversions as add_rounded and scaled_floats, 8 at a time on the stack.
void fixed_point_round(float* out, const float* grad, std::int64_t n, FixedPoint fixed) {
  std::int64_t i = 0;
  for (; i + kWide <= n; i += kWide) {
    alignas(64) std::int64_t acc[kWide] = {};
    add_rounded(acc, grad + i, fixed.scale);
    scaled_floats(out + i, acc, fixed.inverse);
  }
  for (; i < n; ++i) {
    std::int64_t acc = 0;
    fixed_point_add(&acc, grad + i, 1, fixed.scale);
    fixed_point_to_float(out + i, &acc, 1, fixed.inverse);
  }
}

// In 16 running sums whatever the width of a register: every machine gets the same bits.
double sum_squares(const float* values, std::int64_t n) {
  constexpr int kSums = 16;
  double sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int k = 0; k < kSums; ++k) {
      const auto v = static_cast<double>(values[i + k]);
      sums[k] += v * v;
    }
  for (; i < n; ++i) {
    const auto v = static_cast<double>(values[i]);
    sums[i % kSums] += v * v;
  }
  for (int half = kSums / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  return sums[0];
}

void adamw(const AdamWRange& range, const AdamW& op) {
  if (range.work.data && range.work.dtype == DType::bf16)
    adamw_range(range, static_cast<bf16*>(range.work.data), op);
  else
    adamw_range(range, static_cast<float*>(range.work.data), op);
}

}  // namespace demist::cpu::DEMIST_ISA
