// SPDX-License-Identifier: Apache-2.0
#include "data/permutation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "core/error.hpp"

namespace demist::data {
namespace {

template <class P>
std::vector<std::uint64_t> images(const P& permutation, std::uint64_t n) {
  std::vector<std::uint64_t> all;
  for (std::uint64_t i = 0; i < n; ++i) all.push_back(permutation(i));
  return all;
}

template <class P>
void expect_bijection(const P& permutation, std::uint64_t n) {
  std::vector<std::uint64_t> all = images(permutation, n);
  std::sort(all.begin(), all.end());
  for (std::uint64_t i = 0; i < n; ++i) ASSERT_EQ(all[i], i) << "n " << n;
}

TEST(Permutation, IsABijectionForEverySize) {
  for (std::uint64_t n = 1; n <= 130; ++n)
    for (const std::uint64_t key : {0ull, 1ull, 0xdeadbeefull})
      expect_bijection(Permutation(n, key), n);
  for (const std::uint64_t n : {4096ull, 4097ull, 65537ull}) expect_bijection(Permutation(n, 5), n);
}

TEST(Permutation, RefusesAnIndexOutOfRange) {
  EXPECT_THROW(Permutation(10, 1)(10), InternalError);
  EXPECT_THROW(Permutation(0, 1)(0), InternalError);
}

TEST(Permutation, LargeDomainsStayInRangeWithoutCollisions) {
  const std::uint64_t n = (1ull << 40) + 3;
  const Permutation permutation(n, 9);
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const std::uint64_t image = permutation(n - 1 - i);
    ASSERT_LT(image, n);
    seen.insert(image);
  }
  EXPECT_EQ(seen.size(), 20000u);
}

TEST(Permutation, EveryItemGoesEverywhereAsOften) {
  // 5 x 5 table over 10,000 keys: each cell is binomial(10000, 1/5), sigma 40.
  std::vector<int> count(25, 0);
  for (std::uint64_t key = 0; key < 10000; ++key)
    for (std::uint64_t i = 0; i < 5; ++i) ++count[i * 5 + Permutation(5, key)(i)];
  for (const int n : count) EXPECT_NEAR(n, 2000, 200);
}

TEST(Permutation, LooksShuffled) {
  // Rising neighbours of a random order: (n - 1) / 2, sigma sqrt(n / 12) = 29.
  const auto all = images(Permutation(10000, 3), 10000);
  int rising = 0;
  for (std::size_t i = 1; i < all.size(); ++i) rising += all[i] > all[i - 1];
  EXPECT_NEAR(rising, 5000, 150);
}

TEST(Permutation, KeysGiveDifferentOrders) {
  EXPECT_NE(images(Permutation(100, 1), 100), images(Permutation(100, 2), 100));
  EXPECT_EQ(images(Permutation(100, 1), 100), images(Permutation(100, 1), 100));
}

TEST(Permutation, KeepsItsValues) {
  // A change would silently reorder the data of every resumed run.
  EXPECT_EQ(images(Permutation(1000, 7), 4), (std::vector<std::uint64_t>{716, 252, 486, 659}));
  EXPECT_EQ(images(WindowPermutation(1000, 64, 7), 4),
            (std::vector<std::uint64_t>{669, 649, 672, 691}));
}

TEST(WindowPermutation, IsABijectionWithAndWithoutAShortWindow) {
  for (const std::uint64_t window : {1ull, 2ull, 7ull, 16ull, 64ull})
    for (std::uint64_t n = 1; n <= 70; ++n)
      for (const std::uint64_t key : {1ull, 2ull, 3ull})
        expect_bijection(WindowPermutation(n, window, key), n);
  expect_bijection(WindowPermutation(10007, 256, 4), 10007);
}

TEST(WindowPermutation, StaysInsideOneWindowAtATime) {
  const std::uint64_t n = 1003, window = 50;
  const auto all = images(WindowPermutation(n, window, 11), n);
  std::set<std::uint64_t> finished;
  std::uint64_t changes = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    const std::uint64_t before = all[i - 1] / window, now = all[i] / window;
    if (now == before) continue;
    ++changes;
    finished.insert(before);
    EXPECT_FALSE(finished.contains(now)) << "window " << now << " was left and entered again";
  }
  EXPECT_EQ(changes, n / window);  // 21 windows, each once
}

TEST(WindowPermutation, TheShortWindowIsNotAlwaysLast) {
  std::set<std::uint64_t> starts;
  for (std::uint64_t key = 0; key < 200; ++key) {
    const auto all = images(WindowPermutation(45, 10, key), 45);
    starts.insert(static_cast<std::uint64_t>(
        std::find_if(all.begin(), all.end(), [](std::uint64_t x) { return x >= 40; }) -
        all.begin()));
  }
  EXPECT_EQ(starts, (std::set<std::uint64_t>{0, 10, 20, 30, 40}));
}

}  // namespace
}  // namespace demist::data
