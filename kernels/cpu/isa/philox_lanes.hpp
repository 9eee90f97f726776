// Dropout's random draws, 128 at a time: the bits of core/philox.hpp in the order of
// kernels/types.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cpu/isa/vec.hpp"
#include "kernels/types.hpp"

namespace demist::cpu::DEMIST_ISA {
namespace {

constexpr std::int64_t kDrawsPerGroup = 128;

// 32-bit words in 64-bit lanes. The upper halves hold garbage: a product reads lower halves only.
typedef std::uint64_t VecWide __attribute__((vector_size(4 * kLanes)));
constexpr int kWideLanes = kLanes / 2;

inline VecWide multiply_low_halves(VecWide a, VecWide b) {
#ifdef __AVX512F__
  return (VecWide)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#else
  return (VecWide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#endif
}

// The counters of kLanes consecutive c0, even ones in v[0], odd ones in v[1]: the words come out
// in memory order with one shift and one blend.
struct PhiloxLanes {
  VecWide c0[2], c1[2], c2[2], c3[2];

  [[gnu::always_inline]] inline void round(VecWide k0, VecWide k1) {
    const VecWide m0 = 0xD2511F53u - VecWide{}, m1 = 0xCD9E8D57u - VecWide{};
    for (int i = 0; i < 2; ++i) {
      const VecWide p0 = multiply_low_halves(c0[i], m0);
      const VecWide p1 = multiply_low_halves(c2[i], m1);
      c0[i] = (p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = p1;
      c2[i] = (p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = p0;
    }
  }
};

[[gnu::always_inline]] inline void store_words(std::uint16_t* out, const VecWide (&word)[2]) {
  const VecWide words = (word[0] & 0xffffffffu) | (word[1] << 32);
  std::memcpy(out, &words, sizeof(words));
}

// Which elements of one dropout row survive. `position` and `sample` name the row.
class DropoutRow {
 public:
  DropoutRow(std::uint64_t key, std::uint32_t position, std::uint64_t sample)
      : key_(key), position_(position), sample_(sample) {}

  // Draws of elements [128 * group, 128 * group + 128), in order.
  [[gnu::always_inline]] inline void draws(std::uint16_t (&out)[kDrawsPerGroup],
                                           std::int64_t group) const {
    constexpr int kCounters = 16;  // of one group
    for (int first = 0; first < kCounters; first += kLanes) {
      PhiloxLanes lanes = start(static_cast<std::uint32_t>(group * kCounters + first));
      auto k0 = static_cast<std::uint32_t>(key_), k1 = static_cast<std::uint32_t>(key_ >> 32);
      for (int i = 0; i < 10; ++i) {
        lanes.round(k0 - VecWide{}, k1 - VecWide{});
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      std::uint16_t* half = out + 2 * first;  // word w of counter c: elements 32 w + 2 c, + 1
      store_words(half, lanes.c0);
      store_words(half + 32, lanes.c1);
      store_words(half + 64, lanes.c2);
      store_words(half + 96, lanes.c3);
    }
  }

 private:
  [[gnu::always_inline]] inline PhiloxLanes start(std::uint32_t counter) const {
    VecWide even;
    for (int i = 0; i < kWideLanes; ++i) even[i] = counter + 2u * static_cast<std::uint32_t>(i);
    const VecWide position = position_ - VecWide{};
    const VecWide low = (sample_ & 0xffffffffu) - VecWide{}, high = (sample_ >> 32) - VecWide{};
    return {{even, even + 1}, {position, position}, {low, low}, {high, high}};
  }

  std::uint64_t key_;
  std::uint32_t position_;
  std::uint64_t sample_;
};

// Drops elements whose draw is below the threshold and scales the others.
struct DropoutScale {
  VecInt threshold;
  Vec scale;
  explicit DropoutScale(const Dropout& dropout)
      : threshold(static_cast<std::int32_t>(dropout.threshold()) - VecInt{}),
        scale(broadcast(dropout.keep_scale())) {}

  // The factor of kLanes elements with these draws: keep_scale, or 0 where dropped.
  [[gnu::always_inline]] inline Vec factor(const std::uint16_t* draws) const {
    VecHalf h;
    std::memcpy(&h, draws, sizeof(h));
    return (VecInt)widen(h) < threshold ? Vec{} : scale;
  }
};

}  // namespace
}  // namespace demist::cpu::DEMIST_ISA
