// What every Communicator must do, as gtest checks that all ranks of the group run together.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/error.hpp"
#include "worker/parallel/communicator.hpp"

namespace demist::test {

// Sizes around zero, fewer than the ranks, odd, and past the small-message path.
inline constexpr std::int64_t kSizes[] = {0, 1, 2, 3, 5, 64, 1023, 1025, 10007, 100003};

inline std::uint32_t scramble(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<std::uint32_t>(x >> 32);
}
// Term of `rank` at i: magnitudes spread over 2^-12..2^12, so that another order of addition gives
// other bits.
inline float float_term(int rank, std::int64_t i) {
  const std::uint32_t u =
      scramble(static_cast<std::uint64_t>(i) * 64 + static_cast<unsigned>(rank) + 1);
  const float mantissa = static_cast<float>(u & 0xffffff) / 8388608.0f - 1.0f;
  return std::ldexp(mantissa, static_cast<int>(u >> 24) % 25 - 12);
}
inline std::int64_t int_term(int rank, std::int64_t i) {
  return static_cast<std::int64_t>(scramble(static_cast<std::uint64_t>(i * 31 + rank))) << 24;
}

inline std::vector<float> float_terms(int rank, std::int64_t size) {
  std::vector<float> values(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) values[static_cast<std::size_t>(i)] = float_term(rank, i);
  return values;
}
inline float float_sum(int ranks, std::int64_t i) {
  float sum = float_term(0, i);
  for (int r = 1; r < ranks; ++r) sum += float_term(r, i);
  return sum;
}
inline std::int64_t int_sum(int ranks, std::int64_t i) {
  std::int64_t sum = 0;
  for (int r = 0; r < ranks; ++r) sum += int_term(r, i);
  return sum;
}

// Uneven cuts of [0, total): rank 1 owns nothing, rank 0 little.
inline std::vector<std::int64_t> uneven_starts(int ranks, std::int64_t total) {
  std::vector<std::int64_t> starts{0};
  for (int r = 0; r < ranks; ++r) {
    const std::int64_t left = total - starts.back();
    const std::int64_t share = r + 1 == ranks ? left : r == 1 ? 0 : left / 3;
    starts.push_back(starts.back() + share);
  }
  return starts;
}

inline void sums_floats_in_rank_order(Communicator& comm) {
  for (const std::int64_t size : kSizes) {
    std::vector<float> values = float_terms(comm.rank(), size);
    comm.all_reduce_sum(values);
    for (std::int64_t i = 0; i < size; ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[static_cast<std::size_t>(i)]),
                std::bit_cast<std::uint32_t>(float_sum(comm.size(), i)))
          << "size " << size << " element " << i;
  }
}

// Each rank rounds what it adds: the bits of rounding afterwards.
inline void rounds_the_sums_of_floats(Communicator& comm) {
  for (const std::int64_t size : kSizes) {
    std::vector<float> terms = float_terms(comm.rank(), size), sums(terms.size(), -7.0f);
    comm.all_reduce_sum(vector_view(std::span(sums)), terms);
    terms = float_terms(comm.rank(), size);
    std::vector<bf16> rounded(terms.size(), bf16(-7.0f));
    comm.all_reduce_sum(vector_view(std::span(rounded)), terms);
    for (std::int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<std::size_t>(i);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(sums[at]),
                std::bit_cast<std::uint32_t>(float_sum(comm.size(), i)))
          << "size " << size << " element " << i;
      ASSERT_EQ(rounded[at].bits, bf16(float_sum(comm.size(), i)).bits)
          << "size " << size << " element " << i;
    }
  }
}

inline void sums_integers_exactly(Communicator& comm) {
  for (const std::int64_t size : kSizes) {
    std::vector<std::int64_t> values(static_cast<std::size_t>(size));
    for (std::int64_t i = 0; i < size; ++i)
      values[static_cast<std::size_t>(i)] = int_term(comm.rank(), i);
    comm.all_reduce_sum(values);
    for (std::int64_t i = 0; i < size; ++i)
      ASSERT_EQ(values[static_cast<std::size_t>(i)], int_sum(comm.size(), i)) << size << " " << i;
  }
}

// Partial sums may leave the range as long as the total comes back.
inline void integer_extremes_cancel(Communicator& comm) {
  for (const std::size_t size : {std::size_t{2}, std::size_t{5000}}) {
    std::vector<std::int64_t> values(size, 0);
    const bool last = comm.rank() == comm.size() - 1;
    if (comm.rank() == 0) values.assign(size, std::numeric_limits<std::int64_t>::max());
    if (last && comm.size() > 1) values.assign(size, std::numeric_limits<std::int64_t>::min());
    if (comm.size() > 2 && comm.rank() == 1) values.assign(size, 7);
    comm.all_reduce_sum(values);
    const std::int64_t expected = comm.size() == 1   ? std::numeric_limits<std::int64_t>::max()
                                  : comm.size() == 2 ? -1
                                                     : 6;
    for (const std::int64_t value : values) ASSERT_EQ(value, expected);
  }
}

inline void max_of_floats(Communicator& comm) {
  std::vector<float> values{static_cast<float>(comm.rank()),
                            -1.5f - static_cast<float>(comm.rank()),
                            comm.rank() == 0 ? -0.0f : -1.0f,
                            comm.rank() == 0 ? std::numeric_limits<float>::infinity() : 0.0f,
                            -std::numeric_limits<float>::infinity()};
  comm.all_reduce_max(values);
  EXPECT_EQ(values[0], static_cast<float>(comm.size() - 1));
  EXPECT_EQ(values[1], -1.5f);
  EXPECT_EQ(values[2], 0.0f);
  EXPECT_EQ(values[3], std::numeric_limits<float>::infinity());
  EXPECT_EQ(values[4], -std::numeric_limits<float>::infinity());
}

inline void max_spreads_nan(Communicator& comm) {
  for (const float sign : {1.0f, -1.0f})
    for (int bad = 0; bad < comm.size(); ++bad) {
      std::vector<float> values(3, std::numeric_limits<float>::infinity());
      if (comm.rank() == bad)
        values[1] = std::copysign(std::numeric_limits<float>::quiet_NaN(), sign);
      comm.all_reduce_max(values);
      EXPECT_TRUE(std::isnan(values[1])) << "NaN of rank " << bad << " was lost";
      EXPECT_FALSE(std::isnan(values[0]));
      EXPECT_FALSE(std::isnan(values[2]));
    }
}

inline void sums_spread_nan(Communicator& comm) {
  std::vector<float> values(2000, 1.0f);
  if (comm.rank() == comm.size() - 1) values[1999] = std::numeric_limits<float>::quiet_NaN();
  comm.all_reduce_sum(values);
  EXPECT_TRUE(std::isnan(values[1999]));
  EXPECT_EQ(values[0], static_cast<float>(comm.size()));
}

inline void reduce_scatters_uneven_slices(Communicator& comm) {
  for (const std::int64_t size : kSizes) {
    const auto starts = uneven_starts(comm.size(), size);
    const auto me = static_cast<std::size_t>(comm.rank());
    const auto mine = static_cast<std::size_t>(starts[me + 1] - starts[me]);
    const std::vector<float> in = float_terms(comm.rank(), size);
    std::vector<float> out(mine, -1.0f);
    comm.reduce_scatter_sum(std::span(out), std::span(in), starts);
    std::vector<std::int64_t> whole(in.size()), part(mine);
    for (std::int64_t i = 0; i < size; ++i)
      whole[static_cast<std::size_t>(i)] = int_term(comm.rank(), i);
    comm.reduce_scatter_sum(std::span(part), std::span<const std::int64_t>(whole), starts);
    for (std::size_t i = 0; i < mine; ++i) {
      const std::int64_t at = starts[me] + static_cast<std::int64_t>(i);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]),
                std::bit_cast<std::uint32_t>(float_sum(comm.size(), at)))
          << "size " << size << " element " << at;
      ASSERT_EQ(part[i], int_sum(comm.size(), at)) << "size " << size << " element " << at;
    }
  }
}

// Equal slices may take another way than others; out may be a slice of in on either.
inline void reduce_scatters_integers(Communicator& comm) {
  const std::int64_t ranks = comm.size();
  const auto me = static_cast<std::size_t>(comm.rank());
  for (const std::int64_t each : {1, 5, 3001})
    for (const bool equal : {true, false})
      for (const bool in_place : {true, false}) {
        std::vector<std::int64_t> starts, values;
        for (std::int64_t r = 0; r <= ranks; ++r) starts.push_back(r * each);
        if (!equal) starts = uneven_starts(comm.size(), ranks * each);
        for (std::int64_t i = 0; i < ranks * each; ++i) values.push_back(int_term(comm.rank(), i));
        const auto count = static_cast<std::size_t>(starts[me + 1] - starts[me]);
        std::vector<std::int64_t> apart(count, -1);
        const auto out =
            in_place ? std::span(values).subspan(static_cast<std::size_t>(starts[me]), count)
                     : std::span(apart);
        comm.reduce_scatter_sum(out, std::span<const std::int64_t>(values), starts);
        for (std::size_t i = 0; i < count; ++i)
          ASSERT_EQ(out[i], int_sum(comm.size(), starts[me] + static_cast<std::int64_t>(i)))
              << each << " elements a rank, equal " << equal << ", in place " << in_place;
      }
}

// out may be the caller's own slice of in.
inline void reduce_scatters_in_place(Communicator& comm) {
  const auto starts = uneven_starts(comm.size(), 10007);
  const auto me = static_cast<std::size_t>(comm.rank());
  std::vector<float> values = float_terms(comm.rank(), 10007);
  const auto out = std::span(values).subspan(static_cast<std::size_t>(starts[me]),
                                             static_cast<std::size_t>(starts[me + 1] - starts[me]));
  comm.reduce_scatter_sum(out, std::span<const float>(values), starts);
  for (std::size_t i = 0; i < out.size(); ++i)
    ASSERT_EQ(out[i], float_sum(comm.size(), starts[me] + static_cast<std::int64_t>(i)));
}

inline void gathers_bytes_in_place(Communicator& comm) {
  for (const std::int64_t size : kSizes) {
    const auto starts = uneven_starts(comm.size(), size);
    const auto me = static_cast<std::size_t>(comm.rank());
    const auto value = [](std::int64_t i) { return static_cast<std::byte>(i * 7 % 251); };
    std::vector<std::byte> all(static_cast<std::size_t>(size), std::byte{0xff});
    for (std::int64_t i = starts[me]; i < starts[me + 1]; ++i)
      all[static_cast<std::size_t>(i)] = value(i);
    comm.all_gather(all, starts);
    for (std::int64_t i = 0; i < size; ++i)
      ASSERT_EQ(all[static_cast<std::size_t>(i)], value(i)) << "size " << size << " byte " << i;
  }
}

inline void broadcasts_from_every_root(Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root)
    for (const std::int64_t size : kSizes) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(size),
                                   static_cast<std::byte>(comm.rank() + 1));
      comm.broadcast(bytes, root);
      for (const std::byte byte : bytes) ASSERT_EQ(byte, static_cast<std::byte>(root + 1));
    }
}

// Checked before anything is sent, so all ranks throw and the communicator stays usable.
inline void refuses_wrong_sizes(Communicator& comm) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  std::vector<float> in(4 * ranks), out(4);
  std::vector<std::int64_t> starts(ranks + 1);
  for (std::size_t r = 0; r <= ranks; ++r) starts[r] = static_cast<std::int64_t>(4 * r);
  const auto scatter = [&](std::span<float> to, const std::vector<std::int64_t>& at) {
    comm.reduce_scatter_sum(to, std::span<const float>(in), at);
  };
  EXPECT_THROW(scatter(std::span(out).first(3), starts), InternalError);
  std::vector<std::int64_t> integers(4 * ranks), sums(3);
  EXPECT_THROW(
      comm.reduce_scatter_sum(std::span(sums), std::span<const std::int64_t>(integers), starts),
      InternalError);
  auto wrong = starts;
  wrong.back() += 1;
  EXPECT_THROW(scatter(out, wrong), InternalError);
  wrong = starts;
  wrong.front() = 1;
  EXPECT_THROW(scatter(out, wrong), InternalError);
  wrong = starts;
  wrong.insert(wrong.begin(), 0);
  EXPECT_THROW(scatter(out, wrong), InternalError);
  std::vector<std::byte> bytes(4 * ranks + 1);
  EXPECT_THROW(comm.all_gather(bytes, starts), InternalError);
  EXPECT_THROW(comm.broadcast(bytes, comm.size()), InternalError);
  EXPECT_THROW(comm.broadcast(bytes, -1), InternalError);
  EXPECT_THROW(comm.all_reduce_sum(vector_view(std::span(out)), std::span(in).first(3)),
               InternalError);
  EXPECT_THROW(comm.all_reduce_sum({out.data(), DType::f32, 2, 1, 2}, std::span(in).first(2)),
               InternalError);
  scatter(out, starts);
  comm.barrier();
}

inline void conforms(Communicator& comm) {
  sums_floats_in_rank_order(comm);
  rounds_the_sums_of_floats(comm);
  sums_integers_exactly(comm);
  integer_extremes_cancel(comm);
  max_of_floats(comm);
  max_spreads_nan(comm);
  sums_spread_nan(comm);
  reduce_scatters_uneven_slices(comm);
  reduce_scatters_integers(comm);
  reduce_scatters_in_place(comm);
  gathers_bytes_in_place(comm);
  broadcasts_from_every_root(comm);
  refuses_wrong_sizes(comm);
}

}  // namespace demist::test
