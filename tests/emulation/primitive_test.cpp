// The device primitives against plain expectations. Nothing here knows the emulator: the same test
// runs on a device.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "tests/cuda/tolerance.hpp"
#include "tests/emulation/device_buffer.hpp"
#include "tests/emulation/primitive_kernels.hpp"

namespace demist::cuda::test {
namespace {

using bf16 = __nv_bfloat16;

template <class T>
std::vector<T> counted(std::size_t n, T first = 0) {
  std::vector<T> values(n);
  std::iota(values.begin(), values.end(), first);
  return values;
}

std::vector<bf16> noise_bf16(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<bf16> values;
  for (std::size_t i = 0; i < n; ++i) values.push_back(__float2bfloat16(normal(random)));
  return values;
}

// The lane whose value a lane gets: CUDA C++ Programming Guide, "Warp Shuffle Functions".
int shuffle_source(int op, int lane) {
  switch (op) {
    case kIndex5:
      return 5;
    case kXor3:
      return lane ^ 3;
    case kDown4:
      return lane + 4 < 32 ? lane + 4 : lane;
    case kUp2:
      return lane >= 2 ? lane - 2 : lane;
    case kWidth8Xor4:
      return lane ^ 4;
    default:
      return lane / 8 * 8 + 1;  // kWidth8Index9: 9 modulo 8, in the lane's own 8
  }
}

template <class T>
class WarpOf : public testing::Test {};
using WarpTypes = testing::Types<int, std::int64_t, float, double>;
TYPED_TEST_SUITE(WarpOf, WarpTypes);

TYPED_TEST(WarpOf, ShufflesMoveValuesBetweenLanes) {
  std::vector<TypeParam> in(32);
  for (int lane = 0; lane < 32; ++lane) in[lane] = static_cast<TypeParam>(1000 + lane * lane);
  const DeviceBuffer<TypeParam> device_in(in), device_out(kShuffleOps * 32);
  shuffle(device_out.data(), device_in.data(), nullptr);
  const std::vector<TypeParam> out = device_out.host();
  for (int op = 0; op < kShuffleOps; ++op)
    for (int lane = 0; lane < 32; ++lane)
      EXPECT_EQ(out[op * 32 + lane], in[shuffle_source(op, lane)]) << op << " lane " << lane;
}

TYPED_TEST(WarpOf, SumsAndMaximaReachEveryLane) {
  std::vector<TypeParam> in(32);
  for (int lane = 0; lane < 32; ++lane) in[lane] = static_cast<TypeParam>(lane * 13 % 32 - 20);
  const DeviceBuffer<TypeParam> device_in(in), device_out(64);
  reduce(device_out.data(), device_in.data(), nullptr);
  const std::vector<TypeParam> out = device_out.host();
  const TypeParam sum = std::accumulate(in.begin(), in.end(), TypeParam{});
  const TypeParam largest = *std::max_element(in.begin(), in.end());
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(out[lane], sum);
    EXPECT_EQ(out[32 + lane], largest);
  }
}

TEST(Primitives, VotesCountLanes) {
  for (const unsigned bits : {0x0u, 0xffffffffu, 0x80000001u, 0x12345678u}) {
    std::vector<int> in(32);
    for (int lane = 0; lane < 32; ++lane) in[lane] = (bits >> lane & 1) != 0 ? lane + 2 : 0;
    const DeviceBuffer<int> device_in(in);
    const DeviceBuffer<unsigned> device_out(128);
    vote(device_out.data(), device_in.data(), nullptr);
    const auto out = device_out.host();
    for (int lane = 0; lane < 32; ++lane) {
      EXPECT_EQ(out[lane], bits);
      EXPECT_EQ(out[32 + lane] != 0, bits != 0);
      EXPECT_EQ(out[64 + lane] != 0, bits == 0xffffffffu);
      EXPECT_EQ(out[96 + lane], bits & (lane < 16 ? 0xffffu : 0xffff0000u));
    }
  }
}

TEST(Primitives, AtomicsMissNoThread) {
  const DeviceBuffer<int> sum(std::vector<int>{5}), largest(std::vector<int>{-9}),
      smallest(std::vector<int>{1 << 20});
  const DeviceBuffer<unsigned long long> long_sum(std::vector<unsigned long long>{1});
  const DeviceBuffer<unsigned> tickets(std::vector<unsigned>{0});
  atomics({sum.data(), long_sum.data(), largest.data(), smallest.data(), tickets.data()}, 5,
          nullptr);
  EXPECT_EQ(sum.host()[0], 5 + 5 * 64);
  EXPECT_EQ(long_sum.host()[0], 1 + 5 * 64 * (1ull << 33));
  EXPECT_EQ(largest.host()[0], 5 * 64 - 1);
  EXPECT_EQ(smallest.host()[0], 0);
  EXPECT_EQ(tickets.host()[0], 5u * 2);
}

template <class T>
void expect_vectors_copied(const std::vector<T>& in) {
  const DeviceBuffer<T> device_in(in), device_out(in.size());
  copy_vectors(device_out.data(), device_in.data(), static_cast<int>(in.size()), nullptr);
  const auto out = device_out.host();
  for (std::size_t i = 0; i < in.size(); ++i)
    EXPECT_EQ(static_cast<double>(static_cast<float>(out[i])),
              static_cast<double>(static_cast<float>(in[i])));
}

TEST(Primitives, SixteenByteAccessesCopyEveryType) {
  expect_vectors_copied(noise_bf16(800, 1));
  expect_vectors_copied(counted<float>(404, 0.5f));
  expect_vectors_copied(counted<std::int64_t>(202, -7));
}

TEST(Primitives, MmaMultipliesTiles) {
  const auto a = noise_bf16(256, 2), b = noise_bf16(128, 3);
  const auto c = counted<float>(128, -60.0f);
  const DeviceBuffer<bf16> device_a(a), device_b(b);
  const DeviceBuffer<float> device_c(c), device_d(128);
  mma(device_d.data(), device_a.data(), device_b.data(), device_c.data(), nullptr);
  const auto d = device_d.host();
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      double sum = c[i * 8 + j];
      for (int k = 0; k < 16; ++k)
        sum +=
            static_cast<double>(__bfloat162float(a[i * 16 + k])) * __bfloat162float(b[k * 8 + j]);
      EXPECT_NEAR(d[i * 8 + j], sum, kMma * (1 + std::abs(sum))) << i << ' ' << j;
    }
}

TEST(Primitives, LdmatrixDistributesTiles) {
  const auto matrix = counted<std::uint16_t>(256, 100);
  const DeviceBuffer<std::uint16_t> device_matrix(matrix);
  const DeviceBuffer<unsigned> device_out(4 * 128);
  load_matrices(device_out.data(), device_matrix.data(), nullptr);
  const auto out = device_out.host();
  for (int form = 0; form < 4; ++form)
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < (form < 2 ? 2 : 4); ++i) {
        const bool transposed = form % 2 == 1;
        const auto element = [&](int half) -> unsigned {
          const int p = lane / 4, q = lane % 4 * 2 + half;
          return transposed ? matrix[(i * 8 + q) * 8 + p] : matrix[(i * 8 + p) * 8 + q];
        };
        EXPECT_EQ(out[form * 128 + lane * 4 + i], element(0) | element(1) << 16)
            << form << " lane " << lane << " register " << i;
      }
}

TEST(Primitives, AsynchronousCopiesArriveInOrder) {
  constexpr int kTiles = 5, kValid = 4 * 32 + 7;
  const auto in = counted<int>(kTiles * 128, 1);
  const DeviceBuffer<int> device_in(in), device_out(in.size());
  copy_pipeline(device_out.data(), device_in.data(), kTiles, kValid, nullptr);
  const auto out = device_out.host();
  for (int piece = 0; piece < kTiles * 32; ++piece) {
    const int from = piece / 32 * 32 + 31 - piece % 32;
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(out[piece * 4 + i], from < kValid ? in[from * 4 + i] : 0) << piece;
  }
}

TEST(Primitives, SharedMemoryIsTheBlocks) {
  for (const int n : {1, 31, 32, 100, 1024}) {
    const auto in = counted<int>(static_cast<std::size_t>(n), 3);
    const DeviceBuffer<int> device_in(in), device_out(2 * in.size());
    reverse_blocks(device_out.data(), device_in.data(), n, nullptr);
    const auto out = device_out.host();
    for (int i = 0; i < n; ++i) {
      EXPECT_EQ(out[i], in[n - 1 - i]);
      EXPECT_EQ(out[n + i], in[i]);
    }
  }
}

TEST(Primitives, SyncwarpOrdersMemory) {
  const auto in = counted<int>(32, 7);
  const DeviceBuffer<int> device_in(in), device_out(32);
  rotate_warp(device_out.data(), device_in.data(), nullptr);
  const auto out = device_out.host();
  for (int lane = 0; lane < 32; ++lane) EXPECT_EQ(out[lane], in[(lane + 1) % 32]);
}

TEST(Primitives, FastFunctionsAreNear) {
  std::vector<float> in;
  for (int i = 1; i <= 200; ++i) in.push_back(static_cast<float>(i) * 0.173f);
  const auto n = static_cast<int>(in.size());
  const DeviceBuffer<float> device_in(in), device_out(in.size());
  for (int f = 0; f < kFloatFunctions; ++f) {
    apply(device_out.data(), device_in.data(), n, static_cast<FloatFunction>(f), nullptr);
    const auto out = device_out.host();
    for (int i = 0; i < n; ++i) {
      const double x = in[i];
      const double want = f == kExp2    ? std::exp2(x)
                          : f == kExp   ? std::exp(x)
                          : f == kLog   ? std::log(x)
                          : f == kRsqrt ? 1 / std::sqrt(x)
                                        : x / 3;
      EXPECT_NEAR(out[i], want, kFastFunctions * (std::abs(want) + 0.1)) << f << " of " << x;
    }
  }
  const float infinity = std::numeric_limits<float>::infinity();
  const DeviceBuffer<float> ends(std::vector<float>{-infinity, 0.0f, -200.0f}), results(3);
  apply(results.data(), ends.data(), 3, kExp2, nullptr);
  EXPECT_EQ(results.host(), (std::vector<float>{0.0f, 1.0f, 0.0f}));
}

TEST(Primitives, ConversionsRoundToEvenAndSaturate) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> doubles{0.5,   1.5, 2.5,  -0.5, -1.5, -2.5, 1e30,
                                    -1e30, nan, 1e10, 0.1,  3e9,  -3e9, 1.0000000001};
  std::vector<float> floats;
  for (const double x : doubles) floats.push_back(static_cast<float>(x));
  const DeviceBuffer<double> device_doubles(doubles);
  const DeviceBuffer<float> device_floats(floats);
  const DeviceBuffer<Rounded> device_out(doubles.size());
  round_all(device_out.data(), device_floats.data(), device_doubles.data(),
            static_cast<int>(doubles.size()), nullptr);
  const auto out = device_out.host();
  const std::vector<long long> longs{0,  2,          2,           0,         -2,
                                     -2, INT64_MAX,  INT64_MIN,   INT64_MIN, 10000000000,
                                     0,  3000000000, -3000000000, 1};
  const std::vector<int> ints{0,         2, 2,         0, -2,        -2,        INT32_MAX,
                              INT32_MIN, 0, INT32_MAX, 0, INT32_MAX, INT32_MIN, 1};
  for (std::size_t i = 0; i < doubles.size(); ++i) {
    EXPECT_EQ(out[i].from_double, longs[i]) << doubles[i];
    EXPECT_EQ(out[i].to_long, longs[i]) << doubles[i];
    EXPECT_EQ(out[i].to_int, ints[i]) << doubles[i];
    EXPECT_TRUE(out[i].narrowed == floats[i] || std::isnan(doubles[i]));
  }
}

TEST(Primitives, BitFunctions) {
  const std::vector<unsigned> in{0, 1, 0x80000000u, 0xffffffffu, 0x00f0a000u, 0x3f800000u};
  const DeviceBuffer<unsigned> device_in(in);
  const DeviceBuffer<Bits> device_out(in.size());
  bit_functions(device_out.data(), device_in.data(), static_cast<int>(in.size()), nullptr);
  const auto out = device_out.host();
  for (std::size_t i = 0; i < in.size(); ++i) {
    EXPECT_EQ(out[i].count, std::popcount(in[i]));
    EXPECT_EQ(out[i].leading, std::countl_zero(in[i]));
    EXPECT_EQ(out[i].first, in[i] == 0 ? 0 : std::countr_zero(in[i]) + 1);
    EXPECT_EQ(out[i].high_product, static_cast<unsigned>(std::uint64_t{in[i]} * 0x9E3779B9u >> 32));
    EXPECT_EQ(out[i].as_float_and_back, in[i]);
  }
}

TEST(Primitives, PackingPutsTheFirstLowAndRoundsToEven) {
  // 1 + 2^-8 and 1 + 3 * 2^-8 lie half-way between neighbours of bf16.
  const std::vector<float> in{1.0f, -2.0f, 1.00390625f, 1.01171875f};
  const DeviceBuffer<float> device_in(in);
  const DeviceBuffer<unsigned> device_out(2);
  pack(device_out.data(), device_in.data(), 2, nullptr);
  EXPECT_EQ(device_out.host(), (std::vector<unsigned>{0xc0003f80u, 0x3f823f80u}));
}

TEST(Primitives, ThreadsKnowTheirPlace) {
  const dim3 grid(3, 2, 2), block(4, 3, 5);
  const DeviceBuffer<Position> device_out(12 * 60);
  positions(device_out.data(), grid, block, nullptr);
  const auto out = device_out.host();
  for (unsigned i = 0; i < out.size(); ++i) {
    const unsigned b = i / 60, t = i % 60;
    const std::array<unsigned, 6> want{t % 4, t / 4 % 3, t / 12, b % 3, b / 3 % 2, b / 6};
    const auto& at = out[i];
    EXPECT_EQ((std::array<unsigned, 6>{at.thread.x, at.thread.y, at.thread.z, at.block.x,
                                       at.block.y, at.block.z}),
              want);
    EXPECT_EQ(at.block_size.y, 3u);
    EXPECT_EQ(at.grid_size.z, 2u);
  }
}

}  // namespace
}  // namespace demist::cuda::test
