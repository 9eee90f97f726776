// Randomness as a function: Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy
// as 1, 2, 3") keyed by what a number is for, never by who computes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace demist {

__extension__ typedef unsigned __int128 uint128;  // not ISO C++, but every 64-bit compiler has it

struct Philox4 {
  std::array<std::uint32_t, 4> v;
};

// One of the ten rounds under its key; the next round's key.
constexpr void philox_round(Philox4& c, std::uint32_t k0, std::uint32_t k1) {
  const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c.v[0];
  const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c.v[2];
  c.v[0] = static_cast<std::uint32_t>(p1 >> 32) ^ c.v[1] ^ k0;
  c.v[1] = static_cast<std::uint32_t>(p1);
  c.v[2] = static_cast<std::uint32_t>(p0 >> 32) ^ c.v[3] ^ k1;
  c.v[3] = static_cast<std::uint32_t>(p0);
}
constexpr void philox_next_key(std::uint32_t& k0, std::uint32_t& k1) {
  k0 += 0x9E3779B9u;
  k1 += 0xBB67AE85u;
}
constexpr int kPhiloxRounds = 10;

// The raw bijection: counter (c0..c3) under a 64-bit key.
constexpr Philox4 philox(std::uint64_t key, std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                         std::uint32_t c3) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  Philox4 c{{c0, c1, c2, c3}};
  for (int round = 0; round < kPhiloxRounds; ++round) {
    philox_round(c, k0, k1);
    philox_next_key(k0, k1);
  }
  return c;
}

// 64-bit finalizer of SplitMix64 (Steele et al. 2014): decorrelates consecutive keys.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// FNV-1a of a stream's name; streams are named in docs/ARCHITECTURE.md, "Random streams".
constexpr std::uint64_t stream_id(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

// Key of one stream at one epoch or step of a run.
constexpr std::uint64_t stream_key(std::uint64_t seed, std::string_view stream,
                                   std::uint64_t epoch_or_step) {
  return mix64(mix64(mix64(seed) ^ stream_id(stream)) ^ epoch_or_step);
}

// Four words for (sample, position, draw) under a stream's key.
constexpr Philox4 draw(std::uint64_t key, std::uint64_t sample, std::uint32_t position,
                       std::uint32_t index = 0) {
  return philox(key, index, position, static_cast<std::uint32_t>(sample),
                static_cast<std::uint32_t>(sample >> 32));
}

// Uniform in [0, 1) with 53 bits, from the first two words of a draw.
constexpr double uniform(const Philox4& words) {
  const std::uint64_t x = (std::uint64_t{words.v[0]} << 32) | words.v[1];
  return static_cast<double>(x >> 11) * 0x1.0p-53;
}

// Uniform integer in [0, n) from the last two words; bias below n / 2^64.
constexpr std::uint64_t uniform_int(const Philox4& words, std::uint64_t n) {
  const std::uint64_t x = (std::uint64_t{words.v[2]} << 32) | words.v[3];
  return static_cast<std::uint64_t>((static_cast<uint128>(x) * n) >> 64);
}

}  // namespace demist
