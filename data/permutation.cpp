// SPDX-License-Identifier: Apache-2.0
#include "data/permutation.hpp"

#include "core/error.hpp"
#include "core/philox.hpp"

namespace demist::data {
namespace {

// Four rounds make a Feistel network a good cipher on wide halves (Luby and Rackoff 1988); small
// domains have halves of one or two bits and need more.
constexpr std::uint64_t kRounds = 8;

int half_bits_for(std::uint64_t n) {
  int bits = 0;
  while (bits < 32 && (std::uint64_t{1} << (2 * bits)) < n) ++bits;
  return bits;
}

std::uint64_t encrypt(std::uint64_t x, std::uint64_t key, int half_bits) {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  std::uint64_t left = x >> half_bits, right = x & mask;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    // The round number sits above the halves' 32 bits, so that every round has its own function.
    const std::uint64_t mixed = mix64(key ^ (right | (round << 32)));
    const std::uint64_t next = left ^ ((mixed >> 32) & mask);
    left = right;
    right = next;
  }
  return (left << half_bits) | right;
}

}  // namespace

Permutation::Permutation(std::uint64_t n, std::uint64_t key)
    : n_(n), key_(mix64(key)), half_bits_(half_bits_for(n)) {}

std::uint64_t Permutation::operator()(std::uint64_t i) const {
  ensure(i < n_, "Permutation: index out of range");
  // The cycle through i returns to [0, n) because it started there; under 4 rounds on average.
  do {
    i = encrypt(i, key_, half_bits_);
  } while (i >= n_);
  return i;
}

WindowPermutation::WindowPermutation(std::uint64_t n, std::uint64_t window, std::uint64_t key)
    : n_(n), window_(window), key_(mix64(key)), full_windows_(window ? n / window : 0, key_) {
  ensure(window > 0, "WindowPermutation: the window is empty");
  const std::uint64_t places = full_windows_.size() + 1;
  short_window_begin_ = mix64(key_ ^ n) % places * window_;
}

std::uint64_t WindowPermutation::operator()(std::uint64_t i) const {
  ensure(i < n_, "WindowPermutation: index out of range");
  const std::uint64_t short_size = n_ % window_;
  std::uint64_t source = full_windows_.size(), size = short_size, offset = i - short_window_begin_;
  if (i < short_window_begin_ || i >= short_window_begin_ + short_size) {
    const std::uint64_t j = i < short_window_begin_ ? i : i - short_size;
    source = full_windows_(j / window_);
    size = window_;
    offset = j % window_;
  }
  return source * window_ + Permutation(size, key_ ^ mix64(source))(offset);
}

}  // namespace demist::data
