// What the ranks of a group sent, added or compared, against sums in double. All ranks' terms are
// slices of one buffer here, so one device stands for the whole group.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/combine_terms.hpp"

#include <bit>
#include <cmath>
#include <limits>

#include "tests/cuda/pair.hpp"

namespace demist::cuda::test {
namespace {

constexpr int kMostRanks = 8;
// One element, a warp and a bit, several blocks.
const std::int64_t kCombinedSizes[] = {1, 33, 256, 1023, 4099};
const int kGroups[] = {1, 2, 3, 4, kMostRanks};

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(bits_of(value));
  return bits;
}

// Terms of `ranks` ranks, `size` elements each, as rank `rank` holds them: the others' first, its
// own behind them, with `gap` elements after each. The result's place is the last.
class Group {
 public:
  using Term = std::function<float(int rank, std::int64_t i)>;
  using Combine = void (*)(cudaStream_t, const TensorView&, const FloatTerms&);

  Group(int ranks, std::int64_t size, const Term& term) : ranks_(ranks), size_(size), term_(term) {}

  // Empty when something beside the result was written.
  std::vector<float> result(Combine combine, int rank, bool in_place = false) const {
    const std::int64_t out = (in_place ? ranks_ - 1 : ranks_) * (size_ + kGap);
    std::vector<float> before = terms(rank);
    const DeviceBuffer<float> memory(before);
    combine(nullptr, matrix(memory.data() + out, 1, size_), as_terms(memory.data(), rank));
    std::vector<float> after = memory.host();
    const std::vector<float> found(after.begin() + out, after.begin() + out + size_);
    for (std::vector<float>* list : {&before, &after})
      std::fill_n(list->begin() + out, size_, 0.0f);  // all but the result
    return bits_of(before) == bits_of(after) ? found : std::vector<float>{};
  }

  // The sums in bf16, with what lies behind them.
  std::vector<bf16> rounded_sums(int rank) const {
    DeviceBuffer<float> memory(terms(rank));
    DeviceBuffer<bf16> sums(std::vector<bf16>(index(size_ + kGap), bf16(-77.0f)));
    sum_terms(nullptr, matrix(sums.data(), 1, size_), as_terms(memory.data(), rank));
    return sums.host();
  }

 private:
  static constexpr std::int64_t kGap = 3;
  FloatTerms as_terms(const float* memory, int rank) const {
    const std::int64_t stride = size_ + kGap;
    return {.own = memory + (ranks_ - 1) * stride,
            .others = memory,
            .stride = stride,
            .count = ranks_ - 1,
            .rank = rank};
  }
  std::vector<float> terms(int rank) const {
    std::vector<float> all(index((ranks_ + 1) * (size_ + kGap)), -77.0f);
    for (int r = 0; r < ranks_; ++r) {
      const int place = r == rank ? ranks_ - 1 : r < rank ? r : r - 1;
      for (std::int64_t i = 0; i < size_; ++i) all[index(place * (size_ + kGap) + i)] = term_(r, i);
    }
    return all;
  }

  int ranks_;
  std::int64_t size_;
  Term term_;
};

float float_term(int rank, std::int64_t i) {
  const double u = uniform(draw(stream_key(5, "combine test", static_cast<std::uint64_t>(rank)),
                                static_cast<std::uint64_t>(i), 0));
  return static_cast<float>(2 * u - 1);
}
void expect_sums(int ranks, std::int64_t size) {
  SCOPED_TRACE(testing::Message() << size << " elements of " << ranks << " ranks");
  std::vector<double> want(index(size));
  double norm = 0, difference = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    double terms = 0;
    for (int r = 0; r < ranks; ++r) {
      want[index(i)] += float_term(r, i);
      terms += std::abs(float_term(r, i));
    }
    norm += terms * terms;  // of the terms' sizes: a sum itself may be 0
  }
  const Group group(ranks, size, float_term);
  const std::vector<float> first = group.result(sum_terms, 0);
  ASSERT_EQ(first.size(), want.size()) << "written beside the result";
  for (std::size_t i = 0; i < want.size(); ++i)
    difference += (first[i] - want[i]) * (first[i] - want[i]);
  EXPECT_LE(std::sqrt(difference / norm), kCombinedSum);
  // In the order of the ranks, whichever of them adds.
  for (int rank = 0; rank < ranks; ++rank)
    for (const bool in_place : {false, true})
      EXPECT_EQ(bits_of(group.result(sum_terms, rank, in_place)), bits_of(first)) << rank;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<bf16> rounded = group.rounded_sums(rank);
    for (std::size_t i = 0; i < rounded.size(); ++i)
      ASSERT_EQ(rounded[i].bits, bf16(i < first.size() ? first[i] : -77.0f).bits) << i;
  }
}

TEST(CombineTerms, SumsMatchTheOracleAndHaveTheSameBitsOnEveryRank) {
  for (const int ranks : kGroups)
    for (const std::int64_t size : kCombinedSizes) expect_sums(ranks, size);
}

// More than all blocks take at once: threads come back. Small on the emulated device.
TEST(RealSizes, TermsOfAWholeLayer) {
#ifdef DEMIST_EMULATED
  expect_sums(2, 5003);
#else
  expect_sums(2, 3 * 4096 * 256 + 77);
#endif
}

TEST(CombineTerms, TheLargestIsExact) {
  for (const int ranks : kGroups)
    for (const std::int64_t size : kCombinedSizes) {
      std::vector<float> want;
      for (std::int64_t i = 0; i < size; ++i) {
        double largest = -std::numeric_limits<double>::infinity();
        for (int r = 0; r < ranks; ++r) largest = std::max<double>(largest, float_term(r, i));
        want.push_back(static_cast<float>(largest));
      }
      const Group group(ranks, size, float_term);
      for (int rank = 0; rank < ranks; ++rank)
        for (const bool in_place : {false, true})
          EXPECT_EQ(group.result(max_terms, rank, in_place), want) << size << ", " << ranks;
    }
}

// Whichever rank has it: NaN wins over infinity, and +0 over -0.
TEST(CombineTerms, ANanIsTheLargestAndPlusZeroTheLargerZero) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr int kRanks = 3;
  for (int odd = 0; odd < kRanks; ++odd) {
    const Group group(kRanks, 4, [odd](int rank, std::int64_t i) {
      const float special[] = {std::nanf(""), 0.0f, kInfinity, -kInfinity};
      const float usual[] = {kInfinity, -0.0f, 1.0f, -1.0f};
      return (rank == odd ? special : usual)[i];
    });
    for (int rank = 0; rank < kRanks; ++rank) {
      const std::vector<float> found = group.result(max_terms, rank);
      ASSERT_EQ(found.size(), 4u);
      EXPECT_TRUE(std::isnan(found[0]));
      EXPECT_EQ(bits_of(found[1]), bits_of(0.0f)) << "term " << odd << " on rank " << rank;
      EXPECT_EQ(found[2], kInfinity);
      EXPECT_EQ(found[3], -1.0f);
    }
  }
}

TEST(CombineTerms, NothingIsCombinedOfNothing) {
  const Group group(2, 0, float_term);
  EXPECT_TRUE(group.result(sum_terms, 0).empty());
  EXPECT_TRUE(group.result(max_terms, 1).empty());
}

}  // namespace
}  // namespace demist::cuda::test
